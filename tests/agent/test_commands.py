"""Commands run without a shell, with a time limit, and with nothing inherited."""

import os
import signal
import sys

import pytest

from certctrl_agent import commands
from certctrl_agent.errors import CheckError
from certctrl_agent.plan import Command


def command(*argv: str, seconds: float = 30, run_as: str = "", **env: str) -> Command:
    return Command(argv, seconds, run_as, tuple(env.items()))


def test_a_command_gets_its_arguments_as_they_are(tmp_path) -> None:
    place = tmp_path / "$HOME; *"
    commands.run(command("touch", str(place)))
    assert place.exists()


def test_a_failure_has_the_end_of_the_output() -> None:
    script = "import sys; print('x' * 9000); print('port 80 is taken'); sys.exit(3)"
    with pytest.raises(CheckError, match=r"ended with 3: x+ port 80 is taken$") as caught:
        commands.run(command(sys.executable, "-c", script))
    assert len(str(caught.value)) < 1000


def test_a_missing_program_is_named() -> None:
    with pytest.raises(CheckError, match="no-such-program"):
        commands.run(command("no-such-program", "-t"))


def test_a_command_that_takes_too_long_is_killed_with_its_children(tmp_path) -> None:
    """The child holds a lock while it lives."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    reader = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
    script = f"exec 3>{fifo}; sleep 600 & wait"
    with pytest.raises(CheckError, match=r"took over 0\.3 s"):
        commands.run(command("sh", "-c", script, seconds=0.3))
    os.set_blocking(reader, True)
    assert os.read(reader, 1) == b"", "a writer is left"
    os.close(reader)


def test_a_daemon_that_keeps_the_output_open_is_not_waited_for(tmp_path) -> None:
    place = tmp_path / "pid"
    commands.run(command("sh", "-c", f"sleep 600 & echo $! > {place}"))
    os.kill(int(place.read_text()), signal.SIGKILL)


def test_the_environment_is_that_of_the_plan(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("CERTCTRL_API_KEY", "ak_secret")
    place = tmp_path / "env"
    commands.run(command("sh", "-c", f"env > {place}", SITE="www"))
    text = place.read_text()
    assert "SITE=www" in text
    assert "ak_secret" not in text


def test_a_signal_is_named() -> None:
    with pytest.raises(CheckError, match="killed by signal 9"):
        commands.run(command("sh", "-c", "kill -9 $$"))


def test_an_unknown_user_is_named() -> None:
    with pytest.raises(CheckError, match="no-such-user"):
        commands.run(command("true", run_as="no-such-user"))


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_a_command_runs_as_another_user(tmp_path) -> None:
    place = tmp_path / "who"
    place.touch()
    place.chmod(0o666)
    for folder in (tmp_path, *tmp_path.parents[:3]):
        if folder.stat().st_uid == 0 and str(folder) != "/tmp":
            folder.chmod(folder.stat().st_mode | 0o011)
    commands.run(command("sh", "-c", f"id -un > {place}", run_as="nobody"))
    assert place.read_text() == "nobody\n"
