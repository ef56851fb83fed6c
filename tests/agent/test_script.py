"""The after_update_script runs for chosen signals, if its hash is pinned, and reports failures."""

import hashlib

import pytest

from certctrl_agent.config import NAME
from certctrl_agent.follow import Follower
from tests.agent.plans import copy, run


def script(body: str) -> str:
    return f"@@@BEGIN windows.ps1\nexit 9\n@@@END\n@@@BEGIN posix.sh\n{body}\n@@@END\n"


@pytest.fixture
def made(tmp_path):
    return tmp_path / "made"


@pytest.fixture
def with_script(server, state, lines, tmp_path, follower, authority):
    """Return a function that starts an agent whose plan has this script."""

    def start(text: str, *items, pinned: str | None = None, kinds='["cert.updated"]') -> Follower:
        digest = pinned or hashlib.sha256(text.encode()).hexdigest()
        config = f'script_signals = {kinds}\nscript_sha256 = ["{digest}"]\n'
        (state.folder / NAME).write_text(config)
        target = tmp_path / "tls/www.der"
        server.put_plan(copy({"certificate.der": str(target)}), *items)
        server.plan["after_update_script"] = text
        server.issue(7, authority.issue())
        agent = Follower(state, lines.append)
        agent.begin()
        agent.poll(0)
        agent.work()
        agent.work()
        return agent

    return start


def problems(server) -> list[str]:
    return [event["what"] for event in server.events if event["type"] == "agent_error"]


def test_the_script_gets_the_type_of_the_signal(with_script, made, server) -> None:
    with_script(script(f"echo $# $1 >> {made}"))
    assert made.read_text() == "1 cert.updated\n"
    assert problems(server) == []


def test_the_script_runs_again_for_the_next_signal(with_script, made, server, authority) -> None:
    agent = with_script(script(f"echo $1 >> {made}"))
    server.issue(7, authority.issue())
    agent.poll(0)
    agent.work()
    assert made.read_text().split() == ["cert.updated"] * 2


def test_other_signals_run_no_script(with_script, made) -> None:
    with_script(script(f"touch {made}"), kinds='["ca.assigned"]')
    assert not made.exists()


def test_a_script_that_is_not_pinned_does_not_run(with_script, made, server) -> None:
    text = script(f"touch {made}")
    with_script(text, pinned="00" * 32)
    assert not made.exists()
    [what] = problems(server)
    assert hashlib.sha256(text.encode()).hexdigest() in what


def test_without_permitted_signals_the_server_is_told(with_script, made, server) -> None:
    with_script(script(f"touch {made}"), kinds="[]")
    assert not made.exists()
    assert problems(server) == [
        "The agent does not run after_update_script: its config.toml has no script_signals."
    ]


def test_the_server_is_told_when_signals_are_permitted(with_script, server, state, lines) -> None:
    with_script(script("true"), kinds="[]")
    (state.folder / NAME).write_text('script_signals = ["cert.updated"]\n')
    agent = Follower(state, lines.append)
    agent.begin()
    agent.work()
    assert problems(server)[1:] == [""]


def test_a_script_that_is_not_permitted_any_more_is_told_alone(
    with_script, server, state, lines
) -> None:
    with_script(script("exit 3"))
    (state.folder / NAME).write_text("script_signals = []\n")
    agent = Follower(state, lines.append)
    agent.begin()
    agent.work()
    assert problems(server)[-1] == (
        "The agent does not run after_update_script: its config.toml has no script_signals."
    )


def test_a_script_that_fails_is_reported_until_it_ends_well(
    with_script, made, server, authority
) -> None:
    agent = with_script(script(f"test -e {made} || {{ echo broken; exit 3; }}"))
    assert problems(server) == [
        "The command /bin/sh after_update_script cert.updated ended with 3: broken"
    ]
    made.touch()
    server.issue(7, authority.issue())
    agent.poll(0)
    agent.work()
    agent.work()
    assert problems(server)[1:] == [""]


def test_a_version_that_was_rolled_back_runs_no_script(with_script, made, server) -> None:
    with_script(script(f"touch {made}"), run("test", ["false"]))
    assert server.states() == ["rolled_back"]
    assert not made.exists()


@pytest.mark.parametrize("text", ["echo x", "@@@BEGIN posix.sh\nx", "@@@END\n@@@BEGIN posix.sh"])
def test_a_text_without_the_part_is_reported(with_script, server, text) -> None:
    with_script(text)
    assert "has no part" in problems(server)[0]
