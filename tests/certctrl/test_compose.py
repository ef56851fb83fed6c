"""The services and settings of deploy/compose.yaml, with the real programs where installed."""

import subprocess
from pathlib import Path
from typing import Any

import pytest
import redis
import yaml

from certctrl import datastores
from certctrl.environment import Environment
from tests.certctrl.test_redis import BOTH, ODD, ways
from tests.servers import free_port, serving

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def composed() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((ROOT / "deploy" / "compose.yaml").read_text())
    return found


@pytest.fixture
def secrets(tmp_path: Path) -> Path:
    """The folder that is /run/secrets in the containers."""
    (tmp_path / "secrets").mkdir()
    for name in ("secret_key", "master_keys", "postgres_password", "redis_password"):
        (tmp_path / "secrets" / name).write_text(f"{ODD}\n")
    return tmp_path / "secrets"


def test_every_secret_is_a_file_and_none_is_a_value(composed, secrets):
    servers = [each for each in composed["services"].values() if "build" in each]
    assert len(servers) == 5
    for server in servers:
        given = {name for name in server["environment"] if name.endswith("_FILE")}
        assert given == {
            "DATABASE_PASSWORD_FILE",
            "REDIS_PASSWORD_FILE",
            "SECRET_KEY_FILE",
            "MASTER_KEYS_FILE",
        }
        assert {Path(server["environment"][name]).name for name in given} <= set(server["secrets"])
    assert {path.name for path in secrets.iterdir()} == set(composed["secrets"])
    assert "PASSWORD:" not in (ROOT / "deploy" / "compose.yaml").read_text()


@pytest.mark.parametrize(
    "end", ["\r\n", *(pytest.param(end, marks=pytest.mark.slow) for end in ("\n", ""))]
)
def test_redis_requires_the_password_of_the_file_and_the_server_uses_it(
    composed, secrets, tmp_path, monkeypatch, end
):
    (secrets / "redis_password").write_bytes(f"{ODD}{end}".encode())
    port = free_port()
    service = composed["services"]["redis"]

    def here(text: str) -> str:
        text = (
            text.replace("$$", "$")
            .replace("/run/secrets", str(secrets))
            .replace("/tmp/redis.conf", str(tmp_path / "r.conf"))
        )
        return text.replace("redis-cli", f"redis-cli -p {port}").replace(
            "--save", f"--port {port} --save"
        )

    command = [here(part) for part in service["command"]]
    with serving(command, port, tmp_path / "redis.log", cwd=tmp_path):
        for name, value in composed["services"]["web"]["environment"].items():
            monkeypatch.setenv(name, here(value).replace("redis:6379", f"127.0.0.1:{port}"))
        assert ways(datastores.redis(Environment())) == BOTH
        with pytest.raises(redis.AuthenticationError):
            redis.Redis(port=port).ping()
        kind, check = service["healthcheck"]["test"]
        assert kind == "CMD-SHELL"
        if end != "\r\n":
            assert subprocess.run(["sh", "-c", here(check)]).returncode == 0
        (secrets / "redis_password").write_text("another")
        assert subprocess.run(["sh", "-c", here(check)], capture_output=True).returncode != 0


def test_its_database_is_reached_by_parts(composed, secrets, monkeypatch):
    for name, value in composed["services"]["web"]["environment"].items():
        monkeypatch.setenv(name, value.replace("/run/secrets", str(secrets)))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    found = datastores.database(Environment(), Path("/data"))
    assert found == {
        "ENGINE": datastores.POSTGRESQL,
        "HOST": "postgres",
        "NAME": composed["services"]["postgres"]["environment"]["POSTGRES_DB"],
        "USER": composed["services"]["postgres"]["environment"]["POSTGRES_USER"],
        "PASSWORD": ODD,
    }
