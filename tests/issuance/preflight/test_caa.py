"""CAA records by RFC 8659 and RFC 8657."""

import pytest

from dnsclient.survey import CaaPolicy, CAARecord
from issuance import preflight

US = ("ca.test", "other-name-of-ca.test")
ACCOUNT = "https://ca.test/acct/1"


def denied(
    *records: tuple[int, str, str], name: str = "example.com", identities=US, account: str = ACCOUNT
) -> str:
    found = preflight.denial(
        name,
        CaaPolicy("example.com", tuple(CAARecord(*each) for each in records)),
        identities,
        account,
        "dns-01",
    )
    assert not found or found.what.endswith(".")
    return found.code if found else ""


@pytest.mark.parametrize(
    "value",
    [
        "ca.test",
        "CA.test.",
        " ca.test ",
        "other-name-of-ca.test",
        "ca.test;",
        "ca.test; unknown=whatever",
        f"ca.test; accounturi={ACCOUNT}",
        f"ca.test;AccountURI={ACCOUNT} ;validationmethods=http-01,dns-01",
        "ca.test; validationmethods=dns-01",
    ],
)
def test_a_value_that_lets_us_issue(value):
    assert denied((0, "issue", value)) == ""


@pytest.mark.parametrize(
    ("value", "code"),
    [
        ("", "caa_forbids"),
        (";", "caa_forbids"),
        (" ; ", "caa_forbids"),
        ("notca.test", "caa_forbids"),
        ("ca.test.evil.test", "caa_forbids"),
        ("ca.test policy=ev", "caa_forbids"),  # the spelling of RFC 6844 is malformed now
        ("ca.test; malformed", "caa_forbids"),
        (f"ca.test; accounturi={ACCOUNT}2", "caa_account"),
        ("ca.test; accounturi=", "caa_account"),
        (f"ca.test; accounturi={ACCOUNT}; accounturi={ACCOUNT}", "caa_account"),
        ("ca.test; validationmethods=http-01", "caa_method"),
        ("ca.test; validationmethods=", "caa_method"),
        ("ca.test; validationmethods=dns-01; validationmethods=http-01", "caa_method"),
    ],
)
def test_a_value_that_does_not(value, code):
    assert denied((0, "issue", value)) == code


def test_one_record_that_lets_us_issue_suffices():
    assert (
        denied(
            (0, "issue", "other.test"),
            (0, "issue", "ca.test; accounturi=x"),
            (0, "issue", "ca.test"),
        )
        == ""
    )


def test_without_issue_everybody_may():
    assert denied() == ""
    assert denied((0, "iodef", "mailto:a@b"), (0, "issuemail", ";")) == ""
    assert denied((0, "issuewild", ";")) == ""


def test_issuewild_overrides_issue_for_wildcards_only():
    records = (0, "issue", ";"), (0, "issuewild", "ca.test")
    assert denied(*records, name="*.example.com") == ""
    assert denied(*records, name="example.com") == "caa_forbids"
    assert (
        denied((0, "issue", "ca.test"), (0, "issuewild", ";"), name="*.example.com")
        == "caa_forbids"
    )
    assert denied((0, "issue", "other.test"), name="*.example.com") == "caa_forbids"


@pytest.mark.parametrize(
    ("flags", "tag", "code"),
    [
        (128, "tbs", "caa_critical"),
        (0, "tbs", ""),
        (1, "tbs", ""),
        (128, "iodef", ""),
        (255, "tbs", "caa_critical"),
    ],
)
def test_only_an_unknown_tag_that_is_critical_forbids(flags, tag, code):
    assert denied((flags, tag, "x"), (0, "issue", "ca.test")) == code


def test_accounts_are_not_compared_before_there_is_one():
    assert denied((0, "issue", "ca.test; accounturi=https://ca.test/acct/9"), account="") == ""


def test_for_a_ca_of_unknown_name_only_rules_for_all_cas_count():
    assert denied((0, "issue", "other.test; accounturi=x"), identities=()) == ""
    assert denied((0, "issue", ";"), identities=()) == "caa_forbids"


@pytest.mark.parametrize(
    ("name", "tag", "fix"),
    [
        ("www.example.com", "issue", 'example.com. CAA 0 issue "ca.test"'),
        ("*.example.com", "issuewild", 'example.com. CAA 0 issuewild "ca.test"'),
    ],
)
def test_a_denial_has_the_record_that_lets_the_ca_issue(name, tag, fix):
    policy = CaaPolicy("example.com", (CAARecord(0, tag, "other.test"),))
    found = preflight.denial(name, policy, US, ACCOUNT, "dns-01")
    assert found.fix == fix
    assert found.what.endswith(f"add the record {fix}.")


def test_dns_contents_are_quoted_without_terminal_control_characters():
    policy = CaaPolicy("example.com", (CAARecord(128, "x\x1b[31m", "y" * 500),))
    found = preflight.denial("example.com", policy, US, ACCOUNT, "dns-01")
    assert "\x1b" not in found.what
    assert len(found.what) < 500


def test_a_denied_method_names_no_method_of_another_account():
    own = (0, "issue", f"ca.test; accounturi={ACCOUNT}; validationmethods=http-01")
    other = (
        0,
        "issue",
        "ca.test; accounturi=https://ca.test/acct/2; validationmethods=tls-alpn-01",
    )
    policy = CaaPolicy("example.com", (CAARecord(*own), CAARecord(*other)))
    found = preflight.denial("example.com", policy, US, ACCOUNT, "dns-01")
    assert found.code == "caa_method"
    assert "tls-alpn-01" not in found.what
