"""Connections to PostgreSQL and Redis, from the settings DATABASE_... and REDIS_...

No error quotes a URL or a part of one, because it may contain a password.
"""

import re
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, unquote, urlsplit

import environ
from django.core.exceptions import ImproperlyConfigured

from certctrl.environment import Environment

STRAY_PERCENT = re.compile(r"%(?![0-9A-Fa-f]{2})")
SQLITE = "django.db.backends.sqlite3"
POSTGRESQL = "django.db.backends.postgresql"
POSTGRES_SCHEMES = ("postgres", "postgresql", "pgsql", "psql")
UNRESERVED = "%!$&'()*+,;=:@-._~"  # left as they are in a user name and a password
UNREADABLE = (
    "The host or the port of {} cannot be read. Write host:port, with a port from 1 to 65535."
)
PARTS = ("HOST", "PORT", "NAME", "USER", "PASSWORD")

REDIS_SCHEMES = {"redis": "redis", "rediss": "rediss", "redis+socket": "unix", "unix": "unix"}
# The spellings of Celery and of redis-py. For a client, `optional` means `required`.
VERIFIES = ("required", "CERT_REQUIRED", "optional", "CERT_OPTIONAL")
FALSE = ("0", "f", "false", "n", "no", "off")
TLS_FILES = {
    "ssl_ca_certs": "REDIS_CA_BUNDLE",
    "ssl_certfile": "REDIS_CLIENT_CERT",
    "ssl_keyfile": "REDIS_CLIENT_KEY",
}
REDIS_OPTIONS = ("db", "virtual_host", "ssl_cert_reqs", "ssl_check_hostname", *TLS_FILES)


# --- PostgreSQL, or SQLite ---


def database(env: Environment, folder: Path) -> dict[str, Any]:
    """Return Django's database settings.

    DATABASE_HOST and similar settings replace the same part of DATABASE_URL. Without any of them
    the database is SQLite in the data folder. Raise ImproperlyConfigured.
    """
    url = env.str("DATABASE_URL", "")
    given = {part: env.str(f"DATABASE_{part}", "") for part in PARTS}
    given = {part: value for part, value in given.items() if value}
    if "PORT" in given:
        given["PORT"] = env.int("DATABASE_PORT")
    if not url and not given:
        return {"ENGINE": SQLITE, "NAME": str(folder / "certctrl.sqlite3")}
    if not url and "HOST" not in given:
        raise ImproperlyConfigured(
            f"DATABASE_{next(iter(given))} is set, but no server is named. Set DATABASE_HOST."
        )
    config = _of_url(url) if url else {"ENGINE": POSTGRESQL, "NAME": "certctrl", "USER": "certctrl"}
    if config["ENGINE"] == SQLITE and given:
        raise ImproperlyConfigured(
            f"DATABASE_URL names SQLite, which has no DATABASE_{next(iter(given))}. Unset one."
        )
    return config | given


def _of_url(url: str) -> dict[str, Any]:
    scheme, is_url, _ = url.partition("://")
    if not is_url or scheme not in (*POSTGRES_SCHEMES, "sqlite"):
        raise ImproperlyConfigured(
            "DATABASE_URL must begin with postgres:// or sqlite:///. For PostgreSQL without a "
            "URL, set DATABASE_HOST, DATABASE_NAME, DATABASE_USER and DATABASE_PASSWORD."
        )
    if scheme == "sqlite":
        return dict(environ.Env.db_url_config(url))
    url, mark, query = encoded("DATABASE", url).partition("?")
    # django-environ encodes a URL without a path a second time.
    path = "" if "/" in url.partition("://")[2] else "/"
    try:
        config: dict[str, Any] = dict(environ.Env.db_url_config(f"{url}{path}{mark}{query}"))
    except ValueError:  # its message quotes a part of the URL
        raise ImproperlyConfigured(UNREADABLE.format("DATABASE_URL")) from None
    socket_folder = config.get("OPTIONS", {}).pop("host", None)
    return config | ({"HOST": socket_folder} if socket_folder else {})


def encoded(name: str, url: str) -> str:
    """Return the URL with user name and password percent-encoded, so that libraries keep them.

    Raise ImproperlyConfigured when a reserved character ends a part too early or has another
    meaning (RFC 3986, section 3.2.1).
    """
    scheme, _, after = url.partition("://")
    authority = re.split(r"[/?#]", after, maxsplit=1)[0]
    user_info, at, _ = authority.rpartition("@")
    if not authority and "@" in after:
        raise ImproperlyConfigured(
            f"{name}_URL has no host, but has the character @. In the path of a socket, write "
            f"it percent-encoded: %40. If it ends a password, set {name}_PASSWORD to the "
            f"password. Then leave the password out of {name}_URL."
        )
    is_cut = "#" in after or "@" in after[len(authority) :]
    if is_cut or STRAY_PERCENT.search(user_info) or "[" in user_info or "]" in user_info:
        raise ImproperlyConfigured(
            f"{name}_URL has a character of / ? # [ ] @ or % where it has another meaning. "
            f"Set {name}_PASSWORD to the password and leave it out of {name}_URL. Or write "
            "the character percent-encoded: %2F for /, %25 for %."
        )
    return f"{scheme}://{quote(user_info, safe=UNRESERVED)}{at}{after[len(user_info) + len(at) :]}"


# --- Redis ---


@dataclass(frozen=True)
class Redis:
    """One Redis server, for Celery's broker and Django's cache."""

    scheme: str
    location: str  # host and port, or the path of a socket, encoded for a URL
    db: int
    user: str
    password: str = field(repr=False)
    tls: dict[str, Any]  # arguments of redis.SSLConnection; empty without TLS

    @property
    def broker_url(self) -> str:
        login = (
            f"{quote(self.user, safe='')}:{quote(self.password, safe='')}@"
            if self.user or self.password
            else ""
        )
        if self.scheme == "unix":
            return f"redis+socket://{login}{self.location}?virtual_host={self.db}"
        return f"{self.scheme}://{login}{self.location}/{self.db}"

    @property
    def url(self) -> str:
        """The URL for redis-py. It has no password: see `options`."""
        where = (
            f"{self.location}?db={self.db}"
            if self.scheme == "unix"
            else f"{self.location}/{self.db}"
        )
        return f"{self.scheme}://{where}"

    @property
    def options(self) -> dict[str, Any]:
        """The arguments of redis-py beside the URL."""
        login = {"username": self.user, "password": self.password}
        return {name: value for name, value in login.items() if value} | self.tls

    @property
    def cache(self) -> dict[str, Any]:
        return {
            "BACKEND": "certctrl.jsoncache.JSONCache",
            "LOCATION": [self.url],
            "OPTIONS": self.options,
        }


def redis(env: Environment) -> Redis:
    """Return the server that REDIS_URL names. REDIS_PASSWORD replaces the password of the URL.

    The certificate is verified unless REDIS_TLS_INSECURE is true. Raise ImproperlyConfigured.
    """
    url = env.str("REDIS_URL", "redis://127.0.0.1:6379/0")
    scheme, is_url, _ = url.partition("://")
    if not is_url or scheme not in REDIS_SCHEMES:
        raise ImproperlyConfigured(
            f"REDIS_URL must begin with {', '.join(f'{each}://' for each in REDIS_SCHEMES)}."
        )
    try:
        parts = urlsplit("redis" + encoded("REDIS", url).removeprefix(scheme))
        host = parts.hostname or "127.0.0.1"
        port = parts.port or 6379
    except ValueError:  # its message quotes a part of the URL
        raise ImproperlyConfigured(UNREADABLE.format("REDIS_URL")) from None
    options = dict(parse_qsl(parts.query, keep_blank_values=True))
    for name in options:
        if name not in REDIS_OPTIONS:
            raise ImproperlyConfigured(
                f"REDIS_URL has an unknown option. Allowed are {', '.join(REDIS_OPTIONS)}."
            )
    is_socket = REDIS_SCHEMES[scheme] == "unix"
    location = parts.path if is_socket else f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    return Redis(
        scheme=REDIS_SCHEMES[scheme],
        location=quote(unquote(location), safe="/") if is_socket else location,
        db=_db(options, "" if is_socket else parts.path),
        user=unquote(parts.username or ""),
        password=env.str("REDIS_PASSWORD", "") or unquote(parts.password or ""),
        tls=_tls(env, options, is_tls=scheme == "rediss"),
    )


def _db(options: dict[str, str], path: str) -> int:
    text = options.get("db") or options.get("virtual_host") or path.strip("/") or "0"
    if not text.isdecimal():
        raise ImproperlyConfigured(
            "The database in REDIS_URL must be a number, as in redis://127.0.0.1:6379/0."
        )
    return int(text)


def _tls(env: Environment, options: dict[str, str], *, is_tls: bool) -> dict[str, Any]:
    files = {
        option: env.str(name, "") or options.get(option, "") for option, name in TLS_FILES.items()
    }
    files = {option: path for option, path in files.items() if path}
    is_insecure = env.bool("REDIS_TLS_INSECURE", default=False)
    if not is_tls:
        if files or is_insecure or any(name.startswith("ssl_") for name in options):
            raise ImproperlyConfigured(
                "TLS settings for Redis are set, but REDIS_URL does not begin with rediss://. "
                "Change REDIS_URL, or unset them."
            )
        return {}
    wanted = (
        options.get("ssl_cert_reqs", "required"),
        options.get("ssl_check_hostname", "true").lower(),
    )
    if not is_insecure and (wanted[0] not in VERIFIES or wanted[1] in FALSE):
        raise ImproperlyConfigured(
            "REDIS_URL turns off the check of Redis's certificate or of its name. Remove "
            "ssl_cert_reqs and ssl_check_hostname from it. For a private certificate, set "
            "REDIS_CA_BUNDLE to the file of its CA. REDIS_TLS_INSECURE=true skips the check. "
            "Then anyone on the network path can act as Redis."
        )
    if "ssl_keyfile" in files and "ssl_certfile" not in files:
        raise ImproperlyConfigured("REDIS_CLIENT_KEY is set without REDIS_CLIENT_CERT. Set both.")
    _refuse_unusable(files)
    if is_insecure:
        return files | {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return files | {"ssl_cert_reqs": "required", "ssl_check_hostname": True}


def _refuse_unusable(files: dict[str, str]) -> None:
    context = ssl.create_default_context()
    option = ""
    try:
        for option, path in files.items():
            Path(path).open("rb").close()
            if option == "ssl_ca_certs":
                context.load_verify_locations(path)
        if "ssl_certfile" in files:
            option = "ssl_certfile"
            context.load_cert_chain(files[option], files.get("ssl_keyfile"), password="")
    except (ssl.SSLError, ValueError):
        what = (
            "a CA's certificate in PEM"
            if option == "ssl_ca_certs"
            else "a certificate in PEM with its key"
        )
        raise ImproperlyConfigured(
            f"The file of {TLS_FILES[option]} does not hold {what}. Name another file."
        ) from None
    except OSError as exc:
        raise ImproperlyConfigured(
            f"The file of {TLS_FILES[option]} cannot be read ({exc.strerror}). Check its path "
            "and its mode."
        ) from None
