"""The guide's own calls, unchanged except for two base URLs, against real processes."""

import io
import signal
import sqlite3
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import dns.message
import dns.query
import dns.rcode
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import pkcs12

from lab.ca import PYTHON
from standalone.embedded import DATABASE_FILE
from tests import keytool
from tests.e2e import guide
from tests.e2e.guide import DOMAIN, ZONE_ID, Outside, Reader
from tests.keytool import needs_keytool
from tests.patience import LIMIT, until
from tests.standalone.starting import Up

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(
        sys.platform != "linux", reason="processes die with their parent on Linux only"
    ),
    pytest.mark.skipif(not PYTHON.exists(), reason="the lab's CA needs its environment: make lab"),
]
CHALLENGE = f"_acme-challenge.{DOMAIN}"
STEPS = ["order", "present", "propagate", "validate", "finalize", "download"]


@pytest.fixture
def outside(tmp_path: Path) -> Iterator[Outside]:
    with guide.outside(tmp_path / "ca") as made:
        yield made


@pytest.fixture
def up(tmp_path: Path, outside: Outside) -> Iterator[Callable[[], Up]]:
    """Starts the server on one data folder, as often as it is called."""
    started: list[Up] = []

    def start() -> Up:
        started.append(Up(tmp_path / "data", **outside.settings()))
        return started[-1].wait()

    yield start
    for each in started:
        if each.process.poll() is None:
            each.end(signal.SIGKILL)


@needs_keytool
def test_the_guides_three_calls_and_its_renew_call(up, outside, tmp_path) -> None:
    server = up()
    reader = Reader(server.address)
    made = reader.three_calls(server_decrypt_export=True)
    assert (made["domain"], made["sans"], made["status"]) == (DOMAIN, [f"*.{DOMAIN}"], "pending")
    first = check_issued(reader, outside, made["id"], made["issue_history_id"])
    check_answers(reader, made["id"], made["issue_history_id"], first)
    check_no_txt(outside)

    let_the_ttl_pass(server)
    renewed = reader.mine("POST", f"certificates/{made['id']}/renew")
    assert set(renewed) == {"issue_history_id", "status"}
    assert renewed["issue_history_id"] > made["issue_history_id"]
    second = check_issued(reader, outside, made["id"], renewed["issue_history_id"])
    assert second.serial_number != first.serial_number
    assert guide.public_bytes(second.public_key()) != guide.public_bytes(first.public_key())
    rows = reader.mine("GET", f"certificates/{made['id']}/issues")
    assert [(row["issue_attempt_number"], row["status"]) for row in rows] == [
        (2, "SUCCESS"),
        (1, "SUCCESS"),
    ]
    check_export(reader, made["id"], second)
    check_java(reader, made["id"], second, tmp_path)
    check_no_txt(outside)
    assert outside.issued() == 2


def let_the_ttl_pass(server: Up) -> None:
    """Date the first issuance back, so that no resolver can have its TXT records any more."""
    with closing(sqlite3.connect(server.folder / DATABASE_FILE)) as database, database:
        database.execute(
            "UPDATE issuance_issuance SET state_since = datetime(state_since, '-10 minutes')"
        )


def check_issued(
    reader: Reader, outside: Outside, certificate_id: int, attempt: int
) -> x509.Certificate:
    """Wait for the attempt, and verify what it issued."""
    result = reader.until_success(certificate_id, attempt)
    assert (result["issue_history_id"], result["certificate_id"]) == (attempt, certificate_id)
    assert (result["state"], result["error_message"]) == ("issued", "")
    shown = reader.mine("GET", f"certificates/{certificate_id}?detail=most")
    leaf = guide.verified(shown["cert"], outside.root_path)
    assert guide.names_of(leaf) == {DOMAIN, f"*.{DOMAIN}"}
    key = leaf.public_key()
    assert isinstance(key, ec.EllipticCurvePublicKey)
    assert key.key_size == 256
    assert int(shown["serial_number"], 16) == leaf.serial_number
    return leaf


def check_answers(
    reader: Reader, certificate_id: int, attempt: int, leaf: x509.Certificate
) -> None:
    """Detail, list, history and events: the contract's sections 9.2 and 9.4."""
    detail = reader.mine("GET", f"certificates/{certificate_id}")
    assert detail["domain"] == detail["domain_name"] == DOMAIN
    assert detail["acme_account_id"] == detail["acct_id"]
    assert (detail["status"], detail["issuance"], detail["self_signed"]) == ("active", None, False)
    assert detail["not_after"] == int(leaf.not_valid_after_utc.timestamp())
    days_left = (detail["not_after"] - detail["renew_at"]) / 86400
    assert 29.9 < days_left < 30.1  # renew_days_before, and a random hour
    assert "cert" not in detail
    listed = detail | {"deployment": None}  # counted for one certificate only
    assert reader.mine("GET", "certificates") == [listed]
    assert reader.call("GET", "/apiv1/me/certificates") == [listed]

    (row,) = reader.mine("GET", f"certificates/{certificate_id}/issues")
    assert (row["id"], row["cert_record_id"], row["status"]) == (attempt, certificate_id, "SUCCESS")
    assert 0 < row["started_at"] <= row["completed_at"]
    events = reader.mine("GET", f"certificates/{certificate_id}/issues/{attempt}/events")
    assert [event["step"] for event in events if event["outcome"] == "done"] == STEPS
    later = reader.mine(
        "GET", f"certificates/{certificate_id}/issues/{attempt}/events?after={events[0]['id']}"
    )
    assert later == events[1:]


def check_export(reader: Reader, certificate_id: int, leaf: x509.Certificate) -> None:
    """The ZIP of section 9.5: its key is the leaf's, also in the PKCS#12 file that the header
    opens.
    """
    answer = reader.raw(
        "GET", f"/apiv1/users/{reader.user_id}/certificates/{certificate_id}/export?format=zip"
    )
    assert (answer.status_code, answer.headers["Content-Type"]) == (200, "application/zip")
    assert (
        answer.headers["Content-Disposition"] == f'attachment; filename="cert-{certificate_id}.zip"'
    )
    files = zipfile.ZipFile(io.BytesIO(answer.content))
    key = serialization.load_pem_private_key(files.read("private.key"), None)
    assert guide.public_bytes(key.public_key()) == guide.public_bytes(leaf.public_key())
    password = answer.headers["X-Export-Password"].encode()
    bundled = pkcs12.load_pkcs12(files.read("bundle.pfx"), password)
    assert bundled.cert
    assert bundled.cert.certificate == leaf
    assert x509.load_der_x509_certificate(files.read("certificate.der")) == leaf


def check_java(reader: Reader, certificate_id: int, leaf: x509.Certificate, folder: Path) -> None:
    """Java reads the chain. The lab's CA gives no subject, so its names are critical."""
    assert list(leaf.subject) == []
    assert leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).critical
    for pfx in ("modern", "legacy"):
        path = f"/apiv1/users/{reader.user_id}/certificates/{certificate_id}/export?pfx={pfx}"
        answer = reader.raw("GET", path)
        bundle = zipfile.ZipFile(io.BytesIO(answer.content)).read("bundle.pfx")
        shown = keytool.listed(bundle, answer.headers["X-Export-Password"], folder)
        assert f"DNSName: *.{DOMAIN}" in shown, pfx
        assert "Certificate chain length: 2" in shown, pfx


def check_no_txt(outside: Outside) -> None:
    """Neither Cloudflare nor the name server keeps a TXT record, soon after the success."""
    until(lambda: not outside.dns.txt(), f"no TXT record left: {outside.dns.txt()}")
    assert outside.cloudflare.records == {}
    query = dns.message.make_query(CHALLENGE, "TXT")
    answer = dns.query.udp(query, "127.0.0.1", port=outside.dns.port, timeout=LIMIT)
    assert answer.rcode() == dns.rcode.NXDOMAIN


class Gate:
    """Hold up the first call of a method until it is opened. `reached`: a call waits."""

    def __init__(self, method: str) -> None:
        self.method = method
        self.reached = threading.Event()
        self.opened = threading.Event()

    def __call__(self, method: str, path: str) -> None:
        if method == self.method and not self.reached.is_set():
            self.reached.set()
            self.opened.wait(LIMIT)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["before_work", "before_answer"])
def test_killing_everything_while_cloudflare_writes_loses_nothing(up, outside, moment) -> None:
    strangers = [
        outside.cloudflare.add(ZONE_ID, CHALLENGE, f'"of somebody else {number}"')
        for number in range(3)
    ]
    gate = Gate("POST")
    setattr(outside.cloudflare, moment, gate)
    server = up()
    made = Reader(server.address).three_calls()
    assert gate.reached.wait(LIMIT)
    server.end(signal.SIGKILL)
    until(lambda: server.living() == [], "all processes of the first start are gone")
    gate.opened.set()  # and the call of the dead worker takes effect

    server = up()
    reader = Reader(server.address)
    result = reader.until_success(made["id"], made["issue_history_id"])
    shown = reader.mine("GET", f"certificates/{made['id']}?detail=most")
    assert guide.names_of(guide.verified(shown["cert"], outside.root_path)) == {
        DOMAIN,
        f"*.{DOMAIN}",
    }
    assert orders_of(shown) == [result["issue_history_id"]]
    until(
        lambda: len(outside.dns.txt()) == 3,
        f"only the stranger's records are left: {outside.dns.txt()}",
    )
    assert list(outside.cloudflare.records.values()) == strangers
    assert server.end() == 0

    reader = Reader(up().address)
    (row,) = reader.mine("GET", "certificates")
    assert (row["status"], row["issuance"]) == ("active", None)
    assert len(reader.mine("GET", f"certificates/{made['id']}/issues")) == 1
    assert outside.issued() == 1


def orders_of(shown: dict[str, Any]) -> list[int]:
    return [order["id"] for order in shown["orders"]]
