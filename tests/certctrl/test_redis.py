"""Celery's broker and the cache reach Redis in every supported way, over a real server."""

import pickle
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from celery import Celery
from django.core.cache import CacheHandler
from django.core.exceptions import ImproperlyConfigured
from kombu import Connection
from kombu.exceptions import OperationalError

from accounts import services
from certctrl import datastores, health
from certctrl.environment import Environment
from tests.certctrl import realredis
from tests.fakes import dripping
from tests.patience import LIMIT

ODD = "p+a/s=s%2?@w:o#r d&;,[x]ü€$'\"\\"
TLS = "port 0", "tls-port {port}", "tls-auth-clients no"


@pytest.fixture
def given(monkeypatch: pytest.MonkeyPatch) -> Any:
    """`given(REDIS_URL=...)` returns the settings for Redis."""

    def read(**settings: object) -> datastores.Redis:
        for name, value in settings.items():
            monkeypatch.setenv(name, str(value))
        return datastores.redis(Environment())

    return read


def ways(server: datastores.Redis) -> list[str]:
    """Return which of broker and cache reach the server."""
    reached = []
    app = Celery(broker=server.broker_url, broker_use_ssl=server.tls or False)
    try:
        app.connection_for_write().ensure_connection(max_retries=1, interval_start=0).release()
        reached.append("broker")
    except OperationalError:
        pass
    try:
        cache_of(server).set("a", 1)
        reached.append("cache")
    except redis.RedisError:
        pass
    return reached


def cache_of(server: datastores.Redis) -> Any:
    return CacheHandler({"default": server.cache})["default"]


BOTH = ["broker", "cache"]


# --- TLS ---


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[int, Path]]:
    """A server with a certificate for `localhost`. Return its port and the file of its root."""
    folder = tmp_path_factory.mktemp("tls")
    _, root = dripping.certificate_for(folder, "localhost")
    with realredis.running(folder, *TLS, *files(folder)) as port:
        yield port, root


def files(folder: Path) -> tuple[str, ...]:
    pair = folder / "server.pem"
    return (
        f"tls-cert-file {pair}",
        f"tls-key-file {pair}",
        f"tls-ca-cert-file {folder / 'root.pem'}",
    )


def test_tls_with_the_right_ca_serves_both(tls, given):
    port, root = tls
    assert ways(given(REDIS_URL=f"rediss://localhost:{port}/0", REDIS_CA_BUNDLE=root)) == BOTH


@pytest.mark.parametrize("asked", ["required", "CERT_REQUIRED", "optional"])
@pytest.mark.parametrize("check", ["", "&ssl_check_hostname=true"])
def test_celerys_spelling_and_that_of_redis_py_serve_both(tls, given, asked, check):
    port, root = tls
    url = f"rediss://localhost:{port}/0?ssl_cert_reqs={asked}&ssl_ca_certs={root}{check}"
    assert ways(given(REDIS_URL=url)) == BOTH


def test_without_its_ca_both_refuse_the_server(tls, given):
    assert ways(given(REDIS_URL=f"rediss://localhost:{tls[0]}/0")) == []


def test_with_another_ca_both_refuse_the_server(tls, given, tmp_path):
    _, other = dripping.certificate_for(tmp_path, "localhost")
    assert ways(given(REDIS_URL=f"rediss://localhost:{tls[0]}/0", REDIS_CA_BUNDLE=other)) == []


def test_under_another_name_both_refuse_the_server(tls, given):
    port, root = tls
    assert ways(given(REDIS_URL=f"rediss://127.0.0.1:{port}/0", REDIS_CA_BUNDLE=root)) == []


def test_only_the_setting_that_is_named_insecure_goes_without_verifying(tls, given):
    url = f"rediss://127.0.0.1:{tls[0]}/0"
    assert ways(given(REDIS_URL=url, REDIS_TLS_INSECURE="true")) == BOTH
    assert ways(given(REDIS_URL=url, REDIS_TLS_INSECURE="false")) == []


@pytest.mark.parametrize(
    "asked", ["ssl_cert_reqs=none", "ssl_cert_reqs=CERT_NONE", "ssl_check_hostname=false"]
)
def test_a_url_that_asks_not_to_verify_is_refused_with_what_to_do(given, asked):
    with pytest.raises(
        ImproperlyConfigured,
        match=r"turns off the check .* REDIS_CA_BUNDLE .* REDIS_TLS_INSECURE=true",
    ):
        given(REDIS_URL=f"rediss://:secret@localhost/0?{asked}")


def test_a_client_certificate_is_shown_by_both(given, tmp_path):
    for name in ("server", "client"):
        (tmp_path / name).mkdir()
        dripping.certificate_for(tmp_path / name, "localhost")
    ours = f"tls-ca-cert-file {tmp_path / 'client' / 'root.pem'}"
    lines = *TLS[:2], *files(tmp_path / "server")[:2], ours
    with realredis.running(tmp_path, *lines) as port:
        url = f"rediss://localhost:{port}/0"
        root = tmp_path / "server" / "root.pem"
        assert ways(given(REDIS_URL=url, REDIS_CA_BUNDLE=root)) == []
        pair = tmp_path / "client" / "server.pem"
        assert ways(given(REDIS_CLIENT_CERT=pair, REDIS_CLIENT_KEY=pair)) == BOTH


@pytest.mark.parametrize("name", ["REDIS_CA_BUNDLE", "REDIS_CLIENT_CERT"])
@pytest.mark.parametrize("exists", [True, False])
def test_a_tls_file_that_cannot_be_used_is_named(given, tmp_path, name, exists):
    path = tmp_path / "file.pem"
    if exists:
        path.write_text("nothing")
    with pytest.raises(ImproperlyConfigured, match=f"The file of {name}"):
        given(REDIS_URL="rediss://localhost/0", **{name: path})


def test_settings_of_tls_without_rediss_are_refused(given, tmp_path):
    with pytest.raises(ImproperlyConfigured, match="does not begin with rediss://"):
        given(REDIS_URL="redis://localhost/0", REDIS_CA_BUNDLE=tmp_path)


# --- passwords and sockets ---


def quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'requirepass "{escaped}"'


def test_a_password_of_any_characters_serves_both(given, tmp_path):
    with realredis.running(tmp_path, "port {port}", quoted(ODD)) as port:
        assert ways(given(REDIS_URL=f"redis://127.0.0.1:{port}/0")) == []
        assert ways(given(REDIS_PASSWORD=ODD)) == BOTH


def test_a_password_in_the_url_is_right_or_refused_without_being_shown(given):
    for password in ("a+b=c", "a:b@c", "a%2Fb%25", "ü ℀", "a&b;c,d$e'f"):
        expected = password.replace("%2F", "/").replace("%25", "%")
        assert given(REDIS_URL=f"redis://:{password}@redis:6379/0").password == expected
    for password in ("s3cret/b", "s3cret?b", "s3cret#b", "s3cret%b", "s3cret[b", "%s3cret"):
        with pytest.raises(
            ImproperlyConfigured, match=r"Set REDIS_PASSWORD .* percent-encoded"
        ) as refused:
            given(REDIS_URL=f"redis://:{password}@redis:6379/0")
        assert "s3cret" not in str(refused.value)
        assert refused.value.__suppress_context__ or refused.value.__context__ is None


@pytest.mark.parametrize("scheme", ["redis+socket", "unix"])
def test_a_socket_path_with_an_at_sign_is_refused_with_its_encoding(given, scheme):
    with pytest.raises(ImproperlyConfigured, match=r"path of a socket, write it.*: %40"):
        given(REDIS_URL=f"{scheme}:///run/redis@1.sock")
    assert given(REDIS_URL=f"{scheme}:///run/redis%401.sock").location == "/run/redis%401.sock"


def test_a_socket_serves_both(given, tmp_path):
    socket = tmp_path / "a b,c;d.sock"
    with realredis.running(tmp_path, "port {port}", f'unixsocket "{socket}"', quoted(ODD)):
        for scheme in ("redis+socket", "unix"):
            path = str(socket).replace(" ", "%20")
            assert ways(given(REDIS_URL=f"{scheme}://{path}", REDIS_PASSWORD=ODD)) == BOTH
            assert given(REDIS_URL=f"{scheme}://{path}?virtual_host=3").db == 3
            assert given(REDIS_URL=f"{scheme}://{path}?db=3").db == 3


@pytest.mark.parametrize(
    "url",
    [
        "",
        "s3cret",
        "http://s3cret",
        "redis://h:s3cret",
        "redis://h/s3cret",
        "redis://h/0?s3cret=1",
        "redis://[s3cret",
    ],
)
def test_a_url_that_names_no_redis_is_refused_without_being_shown(given, url):
    if not url:
        assert given(REDIS_URL=url).broker_url == "redis://127.0.0.1:6379/0"
        return
    with pytest.raises(ImproperlyConfigured, match="REDIS_URL") as refused:
        given(REDIS_URL=url)
    assert "s3cret" not in str(refused.value)


# --- nothing in Redis is code ---


class Bomb:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


@pytest.fixture
def bare(tmp_path: Path, given: Any) -> Iterator[tuple[Any, redis.Redis]]:
    """The cache, and a foreign client of the same Redis."""
    with realredis.running(tmp_path) as port:
        yield cache_of(given(REDIS_URL=f"redis://127.0.0.1:{port}/0")), redis.Redis(port=port)


def test_a_pickle_in_redis_is_not_run_and_counts_as_not_there(bare, tmp_path):
    cache, stranger = bare
    bomb = pickle.dumps(Bomb(tmp_path / "ran"))
    pickle.loads(bomb)
    assert (tmp_path / "ran").exists(), "the bomb works"
    (tmp_path / "ran").unlink()
    stranger.set(cache.make_key("sweep_ended_at"), bomb)
    assert cache.get("sweep_ended_at", "none") == "none"
    assert cache.get_many(["sweep_ended_at"]) == {}
    assert cache.get_or_set("sweep_ended_at", 5.5) == 5.5
    assert not (tmp_path / "ran").exists()


@pytest.mark.django_db
@pytest.mark.parametrize("junk", [b'"abc"', b"[1]", b"\xff", b"[" * 100_000, b'{"a": 1}'])
def test_foreign_values_in_redis_break_neither_health_nor_login_counts(bare, monkeypatch, rf, junk):
    cache, stranger = bare
    for module in (health, services):
        monkeypatch.setattr(module, "cache", cache)
    attempts = services.Attempts(rf.post("/sign-in"), "alice@example.org")
    for key in (health.SWEPT, attempts.here, f"{attempts.here}:ends", attempts.anywhere):
        stranger.set(cache.make_key(key), junk)
    assert health.last_sweep() is None
    assert health.standstill() == ""
    attempts.begin()


def test_the_cache_keeps_what_the_server_puts_there(bare):
    cache, _ = bare
    for value in (7, 7.25, True, "ü", [1.5, 2.5], {"a": None}):
        cache.set("key", value)
        assert cache.get("key") == value
        assert type(cache.get("key")) is type(value)
    cache.add("count", 0, 60)
    assert [cache.incr("count"), cache.incr("count"), cache.get("count")] == [1, 2, 2]
    with pytest.raises(TypeError):
        cache.set("key", object())


def test_celery_takes_json_only_and_listens_to_no_remote_control(settings):
    from certctrl.celery import app

    assert settings.CELERY_ACCEPT_CONTENT == app.conf.accept_content == ["json"]
    assert app.conf.task_serializer == "json"
    assert app.conf.worker_enable_remote_control is False


@pytest.fixture
def queue(bare: tuple[Any, redis.Redis], settings: Any) -> Iterator[tuple[redis.Redis, Any]]:
    """A client of Redis, and a queue to which one message was sent as Celery sends it."""
    _, client = bare
    port = client.connection_pool.connection_kwargs["port"]
    options = settings.CELERY_BROKER_TRANSPORT_OPTIONS
    with Connection(f"redis://127.0.0.1:{port}/0", transport_options=options) as connection:
        queue = connection.SimpleQueue("celery")
        queue.put(7)
        yield client, queue


def test_redis_has_no_copy_of_a_message_that_a_worker_has(queue):
    client, taken = queue
    assert taken.get(timeout=LIMIT).payload == 7
    assert {name for name in client.scan_iter() if not name.startswith(b"_kombu")} == set()


def test_a_worker_that_stops_gives_its_unread_messages_back(queue):
    client, taken = queue
    taken.get(timeout=LIMIT)
    assert client.llen("celery") == 0
    taken.channel.close()
    assert client.llen("celery") == 1
