"""Every log line is JSON with a UTC time and the bound fields, and without secrets."""

import json
import logging
import re
import subprocess
import sys
import warnings

import pytest
import structlog
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from certctrl import log
from certctrl.log import Secret
from tests.patience import LIMIT

PEM = (
    ec.generate_private_key(ec.SECP256R1())
    .private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    .decode()
)
INSIDE_PEM = PEM.splitlines()[1]
JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiI3In0.c2lnbmF0dXJlc2VzYW1l"


@pytest.fixture
def lines(capsys, settings):
    """Configure logging for one test. Return a function that returns the parsed lines so far."""
    root = logging.getLogger()
    kept = root.handlers[:]
    level = root.level
    config = structlog.get_config()
    levels = {name: logging.getLogger(name).level for name in log.QUIET}
    settings.LOG_LEVEL = "INFO"
    log.configure()
    yield lambda: [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    logging.captureWarnings(False)
    structlog.configure(**config)
    root.handlers[:] = kept
    root.setLevel(level)
    for name, was in levels.items():
        logging.getLogger(name).setLevel(was)


def test_a_line_is_json_with_time_level_logger_and_keys(lines):
    structlog.get_logger("issuance.flow").info(
        "step.done", issuance=7, names=["a.example", "*.a.example"]
    )
    (line,) = lines()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", line.pop("timestamp"))
    assert line == {
        "event": "step.done",
        "level": "info",
        "logger": "issuance.flow",
        "issuance": 7,
        "names": ["a.example", "*.a.example"],
    }


def test_lines_of_the_standard_library_are_the_same(lines):
    logging.getLogger("celery.worker").warning("lost %s of %d", "connection", 3)
    (line,) = lines()
    assert (line["event"], line["level"], line["logger"]) == (
        "lost connection of 3",
        "warning",
        "celery.worker",
    )


def test_warnings_are_lines_too(lines):
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("old", DeprecationWarning, stacklevel=1)
    assert "DeprecationWarning: old" in lines()[0]["event"]


def test_bound_fields_are_on_every_line_inside(lines):
    with log.bind(issuance=7, step="order"):
        structlog.get_logger().info("inside")
        logging.getLogger("acme").warning("inside too")
    structlog.get_logger().info("outside")
    inside, too, outside = lines()
    assert (inside["issuance"], inside["step"]) == (too["issuance"], too["step"]) == (7, "order")
    assert "issuance" not in outside


def test_levels_below_the_setting_are_left_out(lines, settings):
    structlog.get_logger().debug("outgoing", host="x")
    logging.getLogger("anything").debug("details")
    assert lines() == []
    settings.LOG_LEVEL = "DEBUG"
    log.configure()
    structlog.get_logger().debug("outgoing", host="x")
    assert [line["event"] for line in lines()] == ["outgoing"]


def test_libraries_that_log_whole_urls_stay_quiet_at_debug(lines, settings):
    settings.LOG_LEVEL = "DEBUG"
    log.configure()
    logging.getLogger("urllib3.connectionpool").debug(
        'https://x:443 "GET /?key=sesame HTTP/1.1" 200 1'
    )
    logging.getLogger("acme.client").debug("JWS payload")
    logging.getLogger("uvicorn.access").info('"GET /?key=sesame HTTP/1.1" 200')
    assert lines() == []


def test_configuring_twice_writes_once(lines):
    log.configure()
    structlog.get_logger().info("once")
    assert len(lines()) == 1


def test_an_unknown_level_is_info(lines, settings):
    settings.LOG_LEVEL = "verbose"
    log.configure()
    structlog.get_logger().info("heard")
    assert len(lines()) == 1


# --- Exceptions ---


def fail(words):
    password = "hunter2"
    raise ValueError(f"{words} of length {len(password)}")


def test_an_exception_is_its_type_its_place_and_a_traceback_without_values(lines):
    try:
        fail("nothing")
    except ValueError:
        structlog.get_logger().exception("step.crashed")
    (line,) = lines()
    assert line["error"] == "ValueError"
    assert re.search(r"test_log_lines\.py:\d+ fail$", line["where"])
    assert "ValueError: nothing of length 7" in line["traceback"]
    assert "exc_info" not in line


@pytest.mark.parametrize(
    "secret", [PEM, f"Bearer {JWT}", "ak_sesame123456", "https://me:sesame@x/", "password=sesame"]
)
def test_a_secret_in_an_exception_is_masked(secret, lines):
    try:
        fail(secret)
    except ValueError:
        logging.getLogger("django.request").exception("Internal Server Error: %s", secret)
    (line,) = lines()
    assert line["error"] == "ValueError"
    told = json.dumps(line)
    assert "***" in told
    assert not any(part in told for part in ("sesame", INSIDE_PEM, JWT[-10:], "hunter2"))


def test_causes_are_in_the_traceback_and_masked(lines):
    try:
        try:
            fail("token=sesame")
        except ValueError as exc:
            raise RuntimeError("later") from exc
    except RuntimeError:
        structlog.get_logger().exception("crashed")
    (line,) = lines()
    assert "direct cause" in line["traceback"]
    assert "sesame" not in line["traceback"]


# --- Secrets ---

SECRET_NAMES = [
    *(
        "secret",
        "api_token",
        "token",
        "access_token",
        "password",
        "passphrase",
        "key",
        "api_key",
        "apiKey",
        "hmac_key",
    ),
    *(
        "Authorization",
        "HTTP_AUTHORIZATION",
        "eab",
        "eab_hmac",
        "eabKid",
        "pem",
        "key_pem",
        "private_key",
        "cookie",
    ),
    *(
        "SECRET_KEY",
        "MASTER_KEYS",
        "access_key_secret",
        "accessKeySecret",
        "X-Auth-Key",
        "credentials",
        "csr_pem",
    ),
]
PLAIN_NAMES = ["key_type", "key_size", "key_policy", "keystore", "path", "status", "name", "items"]


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_a_value_is_masked_by_its_name(name, lines):
    structlog.get_logger().info("called", **{name: "sesame", "inside": [{name: ["sesame"]}]})
    (line,) = lines()
    assert line[name] == "***"
    assert line["inside"] == [{name: "***"}]


@pytest.mark.parametrize("name", PLAIN_NAMES)
def test_other_names_show_their_values(name, lines):
    structlog.get_logger().info("called", **{name: "plain"})
    assert lines()[0][name] == "plain"


def test_the_presence_of_a_secret_may_be_logged(lines):
    structlog.get_logger().info("called", token=None, has_password=True)
    (line,) = lines()
    assert (line["token"], line["has_password"]) == (None, True)


LOOKS = {
    "a private key": (f"read {PEM} from disk", INSIDE_PEM),
    "a private key on one line": (f"read {PEM!r} from disk", INSIDE_PEM),
    "a private key that was cut": (PEM[:120], INSIDE_PEM[:40]),
    "an API key": ("ak_sesame_123-456 was used", "sesame"),
    "a refresh token": ("rt_0123456789abcdef0123456789abcdef.sesame was sent", "sesame"),
    "a device code": ("dc_0123456789abcdef0123-sesame was sent", "sesame"),
    "a bearer": ("Authorization: Bearer sesame.abc", "sesame"),
    "basic": ("authorization: basic c2VzYW1lOnNlc2FtZQ==", "c2VzYW1l"),
    "a JWT": (f"got {JWT}", JWT[-12:]),
    "user and password of a URL": ("redis://:sesame@host/0 and https://me:sesame@host/", "sesame"),
    "the query of a URL": ("GET https://host/path?access_key=1&x=sesame failed", "sesame"),
    "a dictionary": ("{'api_token': 'sesame', 'zone': 'x'}", "sesame"),
    "JSON": ('{"password": "sesame one two"}', "sesame"),
    "a form": ("zone=x&secret=sesame&y=1", "sesame"),
}


@pytest.mark.parametrize(("text", "secret"), LOOKS.values(), ids=LOOKS)
def test_a_value_is_masked_by_its_looks(text, secret, lines):
    structlog.get_logger().info(
        text, what=text, deep={"a": [text]}, raw=text.encode(), thing=ValueError(text)
    )
    logging.getLogger("anything").warning(text.replace("%", "%%"))
    logging.getLogger("anything").warning("with %s", text)
    found = lines()
    assert len(found) == 3
    assert secret not in json.dumps(found)
    assert "***" in found[0]["what"]


def test_the_text_around_a_secret_is_kept():
    assert log.mask("GET https://host/path?key=1 failed") == "GET https://host/path?*** failed"
    assert log.mask("{'api_token': 'sesame', 'zone': 'x'}") == "{'api_token': ***, 'zone': 'x'}"
    assert log.mask("zone=x&secret=sesame&y=1") == "zone=x&secret=***&y=1"
    assert log.mask("a.example and *.a.example at 10:00") == "a.example and *.a.example at 10:00"


def test_a_value_is_cut_before_it_fills_the_log(lines):
    structlog.get_logger().info("called", what="http://a.a" * 100_000)
    assert len(lines()[0]["what"]) == log.LONGEST


def test_a_secret_object_is_three_stars(lines):
    structlog.get_logger().info(
        "called", given=Secret("sesame"), all=[Secret("sesame")], raw=b"sesame"
    )
    (line,) = lines()
    assert (line["given"], line["all"], line["raw"]) == ("***", ["***"], "6 bytes")


def test_a_line_that_holds_itself_is_written(lines):
    loop = {}
    loop["loop"] = loop
    structlog.get_logger().info("called", loop=loop)
    assert len(lines()) == 1


def test_the_web_process_writes_json(tmp_path):
    code = (
        "import logging, uvicorn; uvicorn.Config('certctrl.asgi:application');"
        "import certctrl.asgi; logging.getLogger('uvicorn.error').info('Started');"
        "logging.getLogger('uvicorn.access').info('GET')"
    )
    environment = {
        "DJANGO_SETTINGS_MODULE": "tests.settings",
        "DATA_DIR": str(tmp_path),
        "PATH": "",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, timeout=LIMIT
    )
    events = [json.loads(line)["event"] for line in done.stderr.splitlines()]
    assert events[-1] == "Started"
    assert "GET" not in events
