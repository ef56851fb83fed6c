"""The reference pages match the code."""

import re
from pathlib import Path

from certctrl import datastores

ROOT = Path(__file__).resolve().parent.parent.parent


def test_every_setting_is_listed():
    source = "".join(
        (ROOT / f"certctrl/{name}.py").read_text() for name in ("settings", "datastores")
    )
    names = set(re.findall(r'env\.\w+\(\s*"([A-Z_]+)"', source))
    names |= {f"DATABASE_{part}" for part in datastores.PARTS} | set(datastores.TLS_FILES.values())
    for page in ("docs/reference/settings.md", ".env.example"):
        text = (ROOT / page).read_text()
        assert [name for name in sorted(names) if name not in text] == [], page


def test_the_settings_page_has_the_defaults_of_the_example():
    """The page has a row `| `NAME` | `value` |` for each line `#NAME=value`.

    For an empty value the page has words.
    """
    page = (ROOT / "docs/reference/settings.md").read_text()
    told = dict(re.findall(r"^\| `([A-Z_]+)` \| `([^`]*)` \|", page, re.MULTILINE))
    named = set(re.findall(r"^\| `([A-Z_]+)`", page, re.MULTILINE))
    example = dict(
        re.findall(r"^#([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE)
    )
    assert set(example) == named - {"HTTPS_PROXY"}
    assert told == {name: value for name, value in example.items() if value}


def test_every_link_of_a_page_leads_somewhere():
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    for page in pages:
        for target in re.findall(r"\]\(([^)#]+)\)", page.read_text()):
            if "://" not in target:
                assert (page.parent / target).exists(), f"{page.name}: {target}"
