"""What the source may say: who knows a validation method, and who writes TXT records."""

import re
from pathlib import Path

import pytest
from django.conf import settings

ROOT = Path(settings.BASE_DIR)
FOLDERS = ("issuance/workflow", "issuance/beat", "issuance/services", "issuance/preflight")
FILES = ("issuance/tasks.py", "authorities/acme", "authorities/base.py")
WRITES = re.compile(
    r"TxtRecord(\(\n?|\.objects\b[^=\n]*\.(update|create|get_or_create|update_or_create|delete|bulk_))"
    r"|needed_records\([^\n]*\.update\(|in_the_zone\(\)[^\n]*\.update\("
)


def modules(*places: str) -> list[Path]:
    found = []
    for place in places:
        path = ROOT / place
        found += [path] if path.suffix else sorted(path.rglob("*.py"))
    return found


@pytest.mark.parametrize("place", [*FOLDERS, *FILES])
def test_no_step_and_no_caller_names_a_validation_method(place):
    found = modules(place)
    assert found
    for path in found:
        assert not re.search(r"(dns|http|alpn)-?_?01", path.read_text(), re.IGNORECASE), path


def test_only_records_writes_txt_records():
    places = ("issuance", "dnsproviders", "authorities", "notices", "standalone")
    found = [path for path in modules(*places) if "migrations" not in path.parts]
    writers = {
        str(path.relative_to(ROOT))
        for path in found
        if any(
            WRITES.search(line) and not line.startswith("class ")
            for line in path.read_text().splitlines()
        )
    }
    assert writers == {"dnsproviders/records.py"}
