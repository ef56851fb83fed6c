"""An install: switched in one step, tested, reloaded, and undone when something fails."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from certctrl_agent.errors import MaterialError
from certctrl_agent.install import DAY, HOUR, NEVER, deployment
from certctrl_agent.versions import FOLDER
from tests.agent.installs import installer, pair, pair_of, states, wanted
from tests.agent.plans import copy, run


@pytest.fixture
def key(tmp_path: Path) -> Path:
    (tmp_path / "tls").mkdir()
    return tmp_path / "tls/www.key"


@pytest.fixture
def chain(tmp_path: Path) -> Path:
    return tmp_path / "tls/www.pem"


def both(key: Path, chain: Path):
    return copy({"private.key": str(key), "fullchain.pem": str(chain)})


def record_of(state):
    return state.load("installs")["cert-7"]


def what(state) -> str:
    return state.load("reports")[-1]["what"]


def test_the_first_install_makes_the_files(state, authority, key, chain) -> None:
    issued = authority.issue()
    assert installer(state).advance(wanted(issued, both(key, chain))) == NEVER
    assert pair(key, chain) == pair_of(issued)
    assert stat.S_IMODE(key.stat().st_mode) == 0o600
    assert stat.S_IMODE(chain.stat().st_mode) == 0o644
    assert states(state) == ["installed"]


def test_a_renewal_replaces_regular_files_and_keeps_their_mode(
    state, authority, key, chain
) -> None:
    key.write_text("old key")
    key.chmod(0o640)
    chain.write_text("old chain")
    chain.chmod(0o600)
    issued = authority.issue()
    installer(state).advance(wanted(issued, both(key, chain)))
    assert pair(key, chain) == pair_of(issued)
    assert stat.S_IMODE(key.stat().st_mode) == 0o640
    assert stat.S_IMODE(chain.stat().st_mode) == 0o600


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_a_renewal_keeps_the_owner(state, authority, key, chain) -> None:
    key.write_text("old key")
    os.chown(key, 12345, 54321)
    installer(state).advance(wanted(authority.issue(), both(key, chain)))
    assert (key.stat().st_uid, key.stat().st_gid) == (12345, 54321)


def test_others_cannot_read_a_key_even_if_they_could(state, authority, key, chain) -> None:
    key.write_text("old key")
    key.chmod(0o644)
    installer(state).advance(wanted(authority.issue(), both(key, chain)))
    assert stat.S_IMODE(key.stat().st_mode) == 0o640


def test_an_installed_version_is_left_alone(state, authority, key, chain) -> None:
    same = wanted(authority.issue(), both(key, chain), run("reload", f"touch {key}.reloaded"))
    installer(state).advance(same)
    Path(f"{key}.reloaded").unlink()
    assert installer(state).advance(same) == NEVER
    assert not Path(f"{key}.reloaded").exists()
    assert states(state) == ["installed"]


@pytest.mark.parametrize(
    "damage", [Path.unlink, lambda path: (path.unlink(), path.write_text("x"))]
)
def test_a_file_that_was_removed_or_changed_is_installed_again(
    state, authority, key, chain, damage
) -> None:
    issued = authority.issue()
    same = wanted(issued, both(key, chain))
    installer(state).advance(same)
    damage(chain)
    installer(state).advance(same)
    assert pair(key, chain) == pair_of(issued)


def test_a_removed_folder_of_versions_is_made_again(state, authority, key, chain) -> None:
    issued = authority.issue()
    installer(state).advance(wanted(issued, both(key, chain)))
    shutil.rmtree(key.resolve().parent)
    assert installer(state).advance(wanted(issued, both(key, chain))) == NEVER
    assert pair(key, chain) == pair_of(issued)


def test_a_file_that_cannot_get_its_owner_is_not_replaced(
    state, authority, key, chain, monkeypatch
) -> None:
    def refuse(*arguments: object) -> None:
        raise PermissionError

    key.write_text("old key")
    chain.write_text("old chain")
    monkeypatch.setattr(os, "geteuid", lambda: key.stat().st_uid)
    monkeypatch.setattr(os, "getegid", lambda: 54321)
    monkeypatch.setattr(os, "fchown", refuse)
    assert "Run it as root" in refused(state, authority.issue(), both(key, chain))
    assert pair(key, chain) == ("old key", "old chain")


def test_old_versions_are_removed(state, authority, key, chain) -> None:
    for _ in range(3):
        installer(state).advance(wanted(authority.issue(), both(key, chain)))
    assert len(list((key.parent / FOLDER).iterdir())) == 2  # the switch, and what it shows


def test_targets_in_two_folders_are_switched_together(state, authority, tmp_path) -> None:
    key, chain = tmp_path / "private/www.key", tmp_path / "certs/www.pem"
    first, second = authority.issue(), authority.issue()
    installer(state).advance(wanted(first, both(key, chain)))
    switches = {path.resolve().parent for path in (key, chain)}
    installer(state).advance(wanted(second, both(key, chain)))
    assert pair(key, chain) == pair_of(second)
    assert len(switches) == 1
    assert stat.S_IMODE(state.live.stat().st_mode) == 0o755


def test_a_failed_test_brings_the_old_files_back(state, authority, key, chain) -> None:
    old = authority.issue()
    installer(state).advance(wanted(old, both(key, chain)))
    test = run("test", [sys.executable, "-c", "import sys; sys.exit('line 3 is wrong')"])
    reload = run("reload", f"touch {key}.reloaded")
    assert (
        installer(state).advance(wanted(authority.issue(), both(key, chain), test, reload)) == DAY
    )
    assert pair(key, chain) == pair_of(old)
    assert states(state) == ["installed", "rolled_back"]
    assert "line 3 is wrong" in what(state)
    assert not Path(f"{key}.reloaded").exists(), "the server has not read the new files"


def test_the_test_command_sees_the_new_files(state, authority, key, chain) -> None:
    issued = authority.issue()
    seen = key.with_name("seen")
    test = run("test", ["cp", str(chain), str(seen)])
    installer(state).advance(wanted(issued, both(key, chain), test))
    assert seen.read_text() == issued.fullchain


def test_a_failed_reload_is_followed_by_one_with_the_old_files(
    state, authority, key, chain
) -> None:
    """The reload fails as long as the new chain is there."""
    old, new = authority.issue(), authority.issue()
    log = key.with_name("log")
    installer(state).advance(wanted(old, both(key, chain)))
    script = f"cat {chain} >> {log}; test {new.serial} != $(openssl x509 -in {chain} -noout -serial"
    script += " | cut -d= -f2 | tr A-F a-f | sed s/^0*//)"
    reload = run("reload", ["sh", "-c", script])
    installer(state).advance(wanted(new, both(key, chain), reload))
    assert states(state) == ["installed", "rolled_back"]
    assert log.read_text() == new.fullchain + old.fullchain
    assert pair(key, chain) == pair_of(old)


def test_a_rollback_whose_reload_fails_is_reported_as_failed(state, authority, key, chain) -> None:
    old = authority.issue()
    installer(state).advance(wanted(old, both(key, chain)))
    installer(state).advance(wanted(authority.issue(), both(key, chain), run("reload", "false")))
    assert states(state) == ["installed", "failed"]
    assert "previous files are back" in what(state)
    assert pair(key, chain) == pair_of(old)


def test_a_command_that_may_fail_stops_nothing(state, authority, key, chain) -> None:
    issued = authority.issue()
    reload = run("reload", "false", continue_on_error=True)
    installer(state).advance(wanted(issued, both(key, chain), reload))
    assert states(state) == ["installed"]


def test_a_failed_verify_command_rolls_back(state, authority, key, chain) -> None:
    item = both(key, chain) | {"verify": {"type": "command", "cmd": "false"}}
    installer(state).advance(wanted(authority.issue(), item))
    assert states(state) == ["rolled_back"]
    assert pair(key, chain) is None


def test_a_reload_that_changes_the_targets_is_found(state, authority, key, chain) -> None:
    item = both(key, chain) | {"verify": {"type": "file_hash"}}
    installer(state).advance(wanted(authority.issue(), item, run("reload", f"rm -f {chain}")))
    assert states(state) == ["rolled_back"]


def test_a_version_that_failed_waits_a_day_or_for_a_person(state, authority, key, chain) -> None:
    now = [1_000_000.0]
    agent = installer(state, lambda: now[0])
    gate = key.with_name("gate")
    test = run("test", ["test", "-e", str(gate)])
    issued = authority.issue()
    bad = wanted(issued, both(key, chain), test)
    assert agent.advance(bad) == DAY
    gate.touch()
    now[0] += 60
    assert agent.advance(bad) == DAY - 60
    assert pair(key, chain) is None
    agent.try_again()
    assert agent.advance(bad) == NEVER
    assert pair(key, chain) == pair_of(issued)


def test_a_version_that_failed_is_tried_again_the_next_day(state, authority, key, chain) -> None:
    now = [1_000_000.0]
    agent = installer(state, lambda: now[0])
    bad = wanted(authority.issue(), both(key, chain), run("test", "false"))
    agent.advance(bad)
    now[0] += DAY
    agent.advance(bad)
    assert states(state) == ["rolled_back", "rolled_back"]


def test_a_newer_version_is_tried_at_once(state, authority, key, chain) -> None:
    installer(state).advance(wanted(authority.issue(), both(key, chain), run("test", "false")))
    issued = authority.issue()
    installer(state).advance(wanted(issued, both(key, chain)))
    assert pair(key, chain) == pair_of(issued)


# --- Targets that are refused ---


def refused(state, issued, *items) -> str:
    assert installer(state).advance(wanted(issued, *items)) == HOUR
    assert states(state) == ["failed"]
    assert "trial" not in record_of(state)
    return what(state)


def test_a_target_that_is_a_link_to_somewhere_else_is_refused(state, authority, key, chain) -> None:
    precious = key.with_name("precious")
    precious.write_text("precious")
    chain.symlink_to(precious)
    assert f"is a link to {precious}" in refused(state, authority.issue(), both(key, chain))
    assert precious.read_text() == "precious"
    assert not key.exists()
    assert chain.readlink() == precious


def test_a_target_that_is_a_folder_is_refused(state, authority, key, chain) -> None:
    chain.mkdir()
    assert "is not a file" in refused(state, authority.issue(), both(key, chain))
    assert not key.exists()


def test_a_folder_that_everyone_may_write_to_is_refused(state, authority, key, chain) -> None:
    key.parent.chmod(0o777)
    assert "Everyone may write" in refused(state, authority.issue(), both(key, chain))
    assert list(key.parent.iterdir()) == []


def test_a_folder_that_a_group_may_write_to_is_refused(state, authority, key, chain) -> None:
    key.parent.chmod(0o775)
    assert f"chmod g-w {key.parent}" in refused(state, authority.issue(), both(key, chain))
    assert list(key.parent.iterdir()) == []


def test_a_sticky_folder_may_be_on_the_way(state, authority, key, chain) -> None:
    key.parent.chmod(0o1777)
    issued = authority.issue()
    installer(state).advance(wanted(issued, both(key, chain)))
    assert pair(key, chain) == pair_of(issued)


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
@pytest.mark.parametrize("by_link", [False, True])
def test_a_folder_of_another_user_is_refused(state, authority, key, by_link) -> None:
    folder = key.parent / "own/tls"
    folder.mkdir(parents=True)
    os.chown(folder.parent, 12345, 12345)
    (key.parent / "link").symlink_to(folder)
    target = (key.parent / "link" if by_link else folder) / "www.key"
    found = refused(state, authority.issue(), copy({"private.key": str(target)}))
    assert f"{folder.parent}, on the way to {target}, belongs to another user (12345)" in found
    assert list(folder.iterdir()) == []


@pytest.mark.skipif(os.getuid() != 0, reason="needs root")
def test_a_link_of_another_user_on_the_way_is_refused(state, authority, tmp_path) -> None:
    (tmp_path / "real").mkdir()
    link = tmp_path / "link"
    link.symlink_to("real")
    os.lchown(link, 12345, 12345)
    item = copy({"private.key": str(link / "www.key")})
    assert "link of another user" in refused(state, authority.issue(), item)
    assert list((tmp_path / "real").iterdir()) == []


def test_a_folder_of_versions_that_others_may_change_is_refused(
    state, authority, key, chain
) -> None:
    (key.parent / FOLDER).mkdir()
    (key.parent / FOLDER).chmod(0o775)
    assert "only its owner" in refused(state, authority.issue(), both(key, chain))


def test_a_target_inside_a_folder_of_versions_is_refused(state, authority, key) -> None:
    item = copy({"private.key": str(key.parent / FOLDER / "x")})
    assert "folder of the agent" in refused(state, authority.issue(), item)


def test_a_key_that_cannot_be_opened_changes_nothing(state, authority, key, chain) -> None:
    key.write_text("old key")
    chain.write_text("old chain")
    issued = authority.issue()
    broken = wanted(issued, both(key, chain))

    def contents():
        raise MaterialError("The private key cannot be opened.")

    object.__setattr__(broken, "contents", contents)
    assert installer(state).advance(broken) == HOUR
    assert what(state) == "The private key cannot be opened."
    assert pair(key, chain) == ("old key", "old chain")


# --- Plans that change ---


def test_a_target_that_leaves_the_plan_stays_readable(state, authority, key, chain) -> None:
    first, second = authority.issue(), authority.issue()
    installer(state).advance(wanted(first, both(key, chain)))
    installer(state).advance(wanted(second, copy({"private.key": str(key)})))
    assert pair(key, chain) == (second.key_pem, first.fullchain)


def test_a_plan_may_move_a_target_to_another_folder(state, authority, key, chain, tmp_path) -> None:
    first, second = authority.issue(), authority.issue()
    installer(state).advance(wanted(first, both(key, chain)))
    elsewhere = tmp_path / "elsewhere/www.pem"
    installer(state).advance(wanted(second, both(key, elsewhere)))
    assert pair(key, elsewhere) == pair_of(second)
    assert chain.read_text() == first.fullchain


def test_a_report_has_no_control_characters() -> None:
    """Servers refuse a batch of reports for one of these."""
    shown = deployment(7, "ab", "rolled_back", "\x1b[31mnginx\x00: no\n\tsuch word")["what"]
    assert shown == " [31mnginx : no\n\tsuch word"
