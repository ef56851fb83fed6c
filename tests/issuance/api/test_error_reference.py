"""docs/reference/errors.md lists every error of the API exactly."""

import re
from pathlib import Path

import pytest
from django.conf import settings

from certctrl import errors
from certctrl.disk import DiskFull
from certctrl.errors import ApiError
from dnsproviders.credentials import CheckFailed

ROWS = re.findall(
    r"^\| ([0-9, ]+) \| (\d+) \| `(.+?)` \|",
    (settings.BASE_DIR / "docs/reference/errors.md").read_text(),
    re.M,
)
KINDS = [
    kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, ApiError)
]
KINDS += [CheckFailed, DiskFull]


@pytest.mark.parametrize("kind", KINDS)
def test_every_refusal_is_listed_with_its_status_code_and_key(kind):
    statuses = [status for status, code, key in ROWS if (int(code), key) == (kind.code, kind.key)]
    assert len(statuses) == 1
    assert str(kind.status) in statuses[0]


def test_nothing_is_listed_that_is_never_answered():
    assert {key for _, _, key in ROWS} == {kind.key for kind in KINDS}


def test_every_error_code_of_an_attempt_is_listed():
    listed = (settings.BASE_DIR / "docs/reference/errors.md").read_text()
    apps = ("authorities", "dnsclient", "dnsproviders", "issuance")
    sources = [each for app in apps for each in Path(settings.BASE_DIR / app).rglob("*.py")]
    raised = re.compile(r'(?:Refused|Trouble|ProviderError)\(\s*"([a-z0-9_]+)"')
    codes = {code for source in sources for code in raised.findall(source.read_text())}
    assert len(codes) > 10
    assert sorted(code for code in codes if f"`{code}`" not in listed) == []
