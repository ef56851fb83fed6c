"""The after_update_script of a plan: the agent protocol, section 9.

It runs only if `config.toml` has its hash, because otherwise anyone who may write plans could run
anything.
"""

import hashlib
import tempfile
from pathlib import Path

from certctrl_agent import commands
from certctrl_agent.config import Config
from certctrl_agent.errors import CheckError
from certctrl_agent.plan import COMMAND_SECONDS, Command

BEGIN, END = "@@@BEGIN posix.sh", "@@@END"


def run(text: str, kind: str, config: Config, folder: Path) -> None:
    """Run the script for a signal of this type. Raise CheckError if it may not run, or fails."""
    digest = hashlib.sha256(text.encode()).hexdigest()
    if digest not in config.script_sha256:
        raise CheckError(
            f"The after_update_script of the plan was not run, because script_sha256 of the "
            f"agent's config.toml does not have its SHA-256 ({digest}). Read it before you add it."
        )
    with tempfile.NamedTemporaryFile("w", dir=folder, prefix=".", suffix=".new") as file:
        file.write(posix_part(text))
        file.flush()
        try:
            commands.run(Command(("/bin/sh", file.name, kind), COMMAND_SECONDS, "", ()))
        except CheckError as error:
            what = str(error).replace(file.name, "after_update_script")
            raise CheckError(what) from None


def posix_part(text: str) -> str:
    """Return the lines between the marks of posix.sh. Raise CheckError without them."""
    lines = text.splitlines()
    marks = [line.strip() for line in lines]
    if BEGIN not in marks or END not in marks[marks.index(BEGIN) :]:
        raise CheckError(
            f'The after_update_script of the plan has no part between "{BEGIN}" and "{END}".'
        )
    begin = marks.index(BEGIN) + 1
    return "\n".join(lines[begin : marks.index(END, begin)]) + "\n"
