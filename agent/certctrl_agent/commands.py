"""Run a command of the plan: without a shell, with a time limit, and with nothing inherited."""

import contextlib
import os
import pwd
import signal
import subprocess
import tempfile
from typing import Any

from certctrl_agent.errors import CheckError
from certctrl_agent.plan import Command

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHOWN = 500  # characters of the output that an error has


def run(command: Command) -> None:
    """Run a command. Raise CheckError with the end of its output when it fails.

    The output is a file, because a daemon that the command starts would keep a pipe open.
    """
    with tempfile.TemporaryFile() as output:
        try:
            process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd="/",
                env={"PATH": PATH, "LANG": "C.UTF-8", **dict(command.env)},
                start_new_session=True,
                **identity(command.run_as),
            )
        except (OSError, ValueError) as error:
            raise CheckError(f"The command {command} cannot be run: {error}.") from None
        try:
            code = process.wait(command.seconds)
        except subprocess.TimeoutExpired:
            raise CheckError(f"The command {command} took over {command.seconds:g} s.") from None
        finally:
            if process.returncode is None:
                kill_group(process)
        if code:
            ended = f"ended with {code}" if code > 0 else f"was killed by signal {-code}"
            raise CheckError(f"The command {command} {ended}{end_of(output)}")


def kill_group(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def end_of(output: Any) -> str:
    size = output.seek(0, os.SEEK_END)
    output.seek(max(0, size - 4 * SHOWN))
    text = " ".join(output.read().decode(errors="replace").split())
    return f": {text[-SHOWN:]}" if text else "."


def identity(user: str) -> dict[str, Any]:
    """Return the options of Popen that make a command run as a user."""
    if not user:
        return {}
    try:
        found = pwd.getpwnam(user)
    except KeyError:
        raise CheckError(f'The plan runs a command as "{user}". There is no such user.') from None
    if found.pw_uid == os.geteuid():
        return {}
    groups = os.getgrouplist(user, found.pw_gid)
    return {"user": found.pw_uid, "group": found.pw_gid, "extra_groups": groups}
