"""Start the embedded server: Redis, the lab, web, clock, worker and beat, under one supervisor.

`make run` calls this.
"""

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any
from urllib.parse import urlencode

from django.conf import settings
from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import DatabaseError, connection, connections

from accounts import links
from certctrl import clock
from certctrl.celery import app
from certctrl.supervisor import Child, Stopped, Supervisor
from standalone import administrator, embedded

# SQLite's words for a file that is not a database, or is damaged.
DAMAGED = ("malformed", "not a database", "disk I/O error")
INVENTED = "invented"  # in the state file of a demo
START_LIMIT = 30.0  # seconds for one child to respond


class Command(BaseCommand):
    help = __doc__ or ""
    requires_system_checks: list[str] = []

    def handle(self, *args: Any, **options: Any) -> None:
        self.server = embedded.prepared()
        self.began = clock.monotonic()
        with Supervisor(self.say) as self.supervisor:
            try:
                self.start()
                self.supervisor.run()
            except Stopped:
                self.say("Stopping.")

    def say(self, what: str) -> None:
        self.stdout.write(what)
        self.stdout.flush()

    def start(self) -> None:
        """Start everything in order, issue the lab's certificate, then show the welcome text."""
        with readable_database():
            self.server.make_master_key()
            call_command("migrate", interactive=False, verbosity=0)
            self.refuse_other_rows()
            self.admin = administrator.administrator(self.server.state)
            self.invent()
        self.server.note_database()
        # No connection may be open when the first child is forked.
        connections.close_all()
        self.start_redis()
        self.start_lab()
        preload()
        children = self.server.children()
        if settings.DEMO:
            del children[1:]  # no worker and no clock, so that what is open stays so
        for child in children:
            self.supervisor.start(child)
        self.must("web", lambda: accepts(self.server.address) and children[0].alive())
        self.welcome(self.show_lab())

    def refuse_other_rows(self) -> None:
        """Raise CommandError for a demo in a folder that has another server's rows."""
        if settings.DEMO and not self.server.state.get(INVENTED):
            if get_user_model().objects.exists():
                raise CommandError(
                    f"{self.server.folder} has a real server's data. A demo needs a folder of its"
                    " own. Choose another DATA_DIR."
                )
            self.server.state.keep(**{INVENTED: "begun"})

    def invent(self) -> None:
        if settings.DEMO and self.server.state[INVENTED] != "done":
            from standalone import invention

            self.say("Inventing a year of certificates …")
            invention.fill(get_user_model().objects.get_by_natural_key(self.admin.email))
            self.server.state.keep(**{INVENTED: "done"})

    def start_redis(self) -> None:
        """Start Redis. Start it without its files when it cannot read them.

        Its files are not needed, because the database has all the work.
        """
        redis = self.server.redis
        if redis is None:
            return
        child = redis.child(self.server.log("redis"))
        self.supervisor.start(child)
        self.supervisor.wait_for(lambda: redis.answers() or not child.alive(), START_LIMIT)
        if not child.alive() and (aside := redis.set_aside()):
            self.say(
                "Redis cannot read its files, for example after a power loss. They are in "
                f"{aside} now, and Redis starts without them. Nothing is lost, because all "
                "open work is in the database. You may delete the folder."
            )
        self.must("redis", redis.answers)

    def start_lab(self) -> None:
        if lab := self.server.lab:
            self.start_answering(
                lab.name_server(self.server.log("lab-dns")), lab.name_server_is_ours
            )
            self.start_answering(lab.ca(self.server.log("lab-ca")), lab.ca_is_ours)
            lab.write_bundle()

    def start_answering(self, child: Child, is_ours: Callable[[], bool]) -> None:
        """Start the child, and check that the child itself responds.

        Another program may have taken its port meanwhile.
        """
        self.supervisor.start(child)
        self.must(child.name, is_ours)

    def must(self, name: str, check: Callable[[], bool]) -> None:
        if not self.supervisor.wait_for(check, START_LIMIT):
            raise CommandError(
                f"{name} does not respond after {START_LIMIT:g} s. See the logs in "
                f"{self.server.folder}/log."
            )

    def show_lab(self) -> list[str]:
        """Return the lab's lines of the welcome text.

        The first start issues the certificate for them.
        """
        if self.server.lab is None:
            return []
        from standalone import showing

        return showing.lines(self.server, self.admin, self.supervisor.tend)

    def welcome(self, lab_lines: list[str]) -> None:
        took = clock.monotonic() - self.began
        lines = [
            "",
            f"certctrl runs at {self.server.address} (started in {took:.1f} s)",
            *(
                ["  everything in it is invented, and nothing outside is contacted"]
                if settings.DEMO
                else []
            ),
            f"  sign in        {self.sign_in_link()}",
            f"  administrator  {self.admin.email}",
            f"  password       {self.password()}",
            f"  data folder    {self.server.folder} (logs in log/)",
            *lab_lines,
            "",
            "Ctrl-C stops it.",
        ]
        self.say("\n".join(lines))
        administrator.shown(self.server.state)

    def sign_in_link(self) -> str:
        """Return a link that signs the administrator in, once and within an hour."""
        user = get_user_model().objects.get_by_natural_key(self.admin.email)
        connections.close_all()  # a child that ends is forked again
        query = urlencode({"token": links.token_for(user)})
        return f"{self.server.address}/sign-in/link?{query}"

    def password(self) -> str:
        if self.admin.generated:
            return f"{self.admin.password}  (shown this once)"
        return f"as set before; another: {self.server.manage('changepassword')} {self.admin.email}"


def preload() -> None:
    """Import what the children use, so that they share the memory of it after the fork."""
    for module in (
        "certctrl.asgi",
        "certctrl.urls",
        "certctrl.connections",
        "uvicorn.main",
        "uvicorn.lifespan.on",
        "uvicorn.loops.asyncio",
        "celery.bin.celery",
        "celery.apps.beat",
        "celery.apps.worker",
        "celery.concurrency.thread",
        "celery.worker.consumer",
    ):
        import_module(module)
    app.loader.import_default_modules()  # the tasks


@contextmanager
def readable_database() -> Iterator[None]:
    """Raise CommandError, with a sentence, when the SQLite file cannot be read."""
    try:
        yield
    except DatabaseError as exc:
        name = settings.DATABASES["default"]["NAME"]
        words = str(exc.__cause__ or exc)
        if connection.vendor != "sqlite" or not any(each in words for each in DAMAGED):
            raise
        raise CommandError(
            f"The database {name} is damaged ({words}). Restore it from a backup. Without a "
            f"backup, keep the file and save the readable rows: sqlite3 {name} .recover | "
            "sqlite3 recovered.sqlite3"
        ) from None


def accepts(url: str) -> bool:
    """Return whether a server listens there."""
    host, _, port = url.split("//")[1].split("/")[0].rpartition(":")
    host = host.strip("[]").replace("%25", "%")
    try:
        socket.create_connection((host, int(port)), timeout=1).close()
    except OSError:
        return False
    return True
