"""Requests that wait for another server hold no database connection and do not block the others."""

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import SimpleNamespace
from urllib.parse import quote

import pytest
import requests
from django.db import connection, transaction

from accounts import passwords
from certctrl import outward
from certctrl.errors import RateLimited, Unavailable
from dnsproviders.credentials import create_credential
from lab.ca import PROJECT
from tests import factories
from tests.patience import LIMIT, until
from tests.servers import free_port

MANY = 40


def test_an_owner_has_two_under_way_and_no_more(alice, bob):
    with outward.for_owner(alice.pk), outward.for_owner(alice.pk):
        with pytest.raises(RateLimited) as refused, outward.for_owner(alice.pk):
            pass
        assert refused.value.params == {"retry_after": outward.PAUSE}
        with outward.for_owner(bob.pk):
            pass
    with outward.for_owner(alice.pk):
        pass


def test_everybody_together_has_a_few_under_way():
    def nested(owners):
        if not owners:
            return
        with outward.for_owner(owners[0]):
            nested(owners[1:])

    nested(range(1, outward.AT_ONCE + 1))
    with pytest.raises(Unavailable) as refused:
        nested(range(1, outward.AT_ONCE + 2))
    assert refused.value.params == {"retry_after": outward.PAUSE}
    assert not outward._under_way


@pytest.mark.django_db(transaction=True)
def test_nothing_goes_out_inside_a_transaction(db):
    with outward.for_owner(1), transaction.atomic(), pytest.raises(AssertionError):
        outward.let_go()


@pytest.mark.postgres
@pytest.mark.postgres_only
@pytest.mark.django_db(transaction=True)
class TestOnPostgreSQL:
    def test_a_request_that_asks_somebody_holds_no_connection(self):
        connection.ensure_connection()
        outward.let_go()
        assert connection.connection, "a worker keeps its own"
        with outward.for_owner(1):
            assert connection.connection is None
            connection.ensure_connection()
            outward.let_go()
            assert connection.connection is None

    @pytest.fixture
    def silent(self) -> Iterator[SimpleNamespace]:
        """A server that accepts every connection and sends nothing."""
        listener = socket.create_server(("127.0.0.1", 0), backlog=MANY)
        taken = []

        def take() -> None:
            with suppress(OSError):
                while True:
                    taken.append(listener.accept()[0])

        def close() -> None:
            listener.shutdown(socket.SHUT_RDWR)
            listener.close()
            for each in taken:
                each.close()

        threading.Thread(target=take, daemon=True).start()
        yield SimpleNamespace(port=listener.getsockname()[1], taken=taken, close=close)
        with suppress(OSError):
            close()

    @pytest.fixture
    def site(self, tmp_path):
        """A web process over the tests' database, with five connections."""
        port = free_port()
        database = connection.settings_dict
        host = quote(database["HOST"], safe="")
        url = f"postgres://{database['USER']}@/{database['NAME']}?host={host}"
        settings = {
            "DJANGO_SETTINGS_MODULE": "certctrl.settings",
            "DATABASE_URL": url,
            "DATA_DIR": str(tmp_path),
            "SECRET_KEY": "tests-only-" + "x" * 40,
            "MASTER_KEYS": os.environ["MASTER_KEYS"],
            "REDIS_URL": "redis://127.0.0.1:1/0",  # no server listens there
            "ALLOW_PRIVATE": "127.0.0.0/8",
            "ALLOW_PRIVATE_FOR_TENANTS": "true",
            "WORKER_CONCURRENCY": "1",
            "WORKER_POOL": "threads",
        }
        command = [
            sys.executable,
            "-m",
            "uvicorn",
            "certctrl.asgi:application",
            "--port",
            str(port),
        ]
        with (tmp_path / "web.log").open("wb") as log:
            web = subprocess.Popen(
                command, cwd=PROJECT, env={**os.environ, **settings}, stdout=log, stderr=log
            )
        address = f"http://127.0.0.1:{port}/apiv1"
        until(lambda: web.poll() is not None or is_there(port), "web listens")
        assert web.poll() is None, (tmp_path / "web.log").read_text()
        yield SimpleNamespace(address=address)
        web.terminate()
        web.wait()

    def test_forty_checks_that_hang_leave_everybody_elses_requests_room(self, site, silent, bob):
        owners = factories.UserFactory.create_batch(10)
        where = {"provider": "rfc2136", "server": "127.0.0.1", "port": silent.port}
        calls = []
        for owner in owners:
            made = create_credential(
                owner, where | {"key_name": "k.", "secret": "c2VjcmV0LXRzaWcta2V5"}
            )
            token = factories.api_key(owner, "dns_providers:*[read,write]")
            calls.append((f"{site.address}/me/dns-providers/{made.pk}/check", token))
        reader = factories.api_key(bob, "certificates:*[read]")

        def ask(method, url, token):
            return requests.request(
                method, url, headers={"Authorization": f"Bearer {token}"}, timeout=LIMIT
            )

        with ThreadPoolExecutor(MANY) as threads:
            checks = [threads.submit(ask, "POST", *calls[number % 10]) for number in range(MANY)]
            until(lambda: len(silent.taken) == outward.AT_ONCE, "as many hang as may")
            refused = MANY - outward.AT_ONCE
            until(
                lambda: sum(check.done() for check in checks) == refused, "the others are refused"
            )
            assert ask("GET", f"{site.address}/me/certificates", reader).status_code == 200
            hanging = [check for check in checks if not check.done()]
            assert len(hanging) == outward.AT_ONCE
            silent.close()
        assert {check.result().status_code for check in hanging} == {502}
        for answer in (check.result() for check in checks if check not in hanging):
            assert answer.status_code in (429, 503)
            assert answer.headers["Retry-After"] == str(outward.PAUSE)

    def test_forty_guesses_at_once_leave_everybody_elses_requests_room(self, site, bob):
        reader = {"Authorization": f"Bearer {factories.api_key(bob, 'certificates:*[read]')}"}
        login = site.address.removesuffix("/apiv1") + "/auth/general"

        def guess(number):
            wrong = {"email": f"person{number}@example.org", "password": "Wrong-horse-1"}
            return requests.request("POST", login, json=wrong, timeout=LIMIT)

        with ThreadPoolExecutor(MANY) as threads:
            guesses = [threads.submit(guess, number) for number in range(MANY)]
            until(lambda: any(each.done() for each in guesses), "there is no room for all")
            assert (
                requests.request(
                    "GET", f"{site.address}/me/certificates", headers=reader, timeout=LIMIT
                ).status_code
                == 200
            )
        answers = [each.result() for each in guesses]
        assert {answer.status_code for answer in answers} == {401, 503}
        busy = [answer for answer in answers if answer.status_code == 503]
        assert {answer.headers["Retry-After"] for answer in busy} == {str(passwords.PAUSE)}
        assert {answer.json()["error"]["what"] for answer in busy} == {passwords.FULL}


def is_there(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
