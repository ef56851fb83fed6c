"""Refuse words in the pages that have a plainer word, and paths that do not exist."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
PAGES = [
    *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "SECURITY.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
]
# A pattern, and what to write instead. Case does not matter, and a space also matches a line break.
REFUSED = {
    r"whoever('s)?": "name the person, or write 'anyone who'",
    r"whatever (comes|becomes) of": "write 'even if ... fails'",
    r"mend(s|ed|ing)?": "fix",
    r"dear(er|est)?": "expensive",
    r"anew": "again",
    r"to be had": "available",
    r"nudges?": "a message that may be lost",
    r"learns? us": "write what we know then",
    r"so many (seconds|minutes|hours|days|tokens)": "name the parameter, or 'a number of'",
    r"answers (the|an?|with)": "return, respond with, show",
    r"comes? again": "retry, or return later",
    r"(take|takes|took|taken) (it |them |one )?away": "remove",
    r"(is|are|was|were) told": "notify, or 'a notice is sent'",
    r"tells? of": "report, describe",
    r"stands? (in|on|beside|behind|at|there)": "is in, is beside",
    r"(it|that|this) lies": "is",
    r"must only not": "say what must be",
    r"(house|contract),? section": "a page of docs/, or the RFC",
}
CODE = re.compile(r"^```.*?^```|^(?: {4}|\t).*?$|`[^`\n]*`", re.DOTALL | re.MULTILINE)
HEADING = re.compile(r"^#.*$|^\|.*\|\n(?=\|[-|: ]+\|$)", re.MULTILINE)
QUESTION_AS_SUBJECT = re.compile(r"(?:^|(?<=[.!?:|] )|(?<=[-*] ))(?:What|Who)\b[^.?!|]*[.!|]", re.M)
NAMED = re.compile(r"`((?:[a-z_.0-9-]+/)+(?:[A-Za-z_.0-9-]+\.(?:py|md|yaml|toml|html))?)`")
PLACES = ("", "issuance", "authorities", "dnsproviders")  # below which a page may name a path


def blanked(pattern: re.Pattern[str], text: str) -> str:
    """Replace each match with as many lines, so that line numbers stay right."""
    return pattern.sub(lambda found: "x" + "\n" * found[0].count("\n"), text)


def whole(words: str) -> re.Pattern[str]:
    return re.compile(rf"\b(?:{words})\b".replace(" ", r"\s+"), re.IGNORECASE)


def lines_of(pattern: re.Pattern[str], text: str) -> list[tuple[int, str]]:
    """Return (line number, match) of each match."""
    return [
        (text.count("\n", 0, found.start()) + 1, " ".join(found[0].split()))
        for found in pattern.finditer(text)
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_no_refused_word(page: Path) -> None:
    prose = blanked(CODE, page.read_text())
    found = [
        f"line {line}: '{match}': {instead}"
        for words, instead in REFUSED.items()
        for line, match in lines_of(whole(words), prose)
    ]
    assert found == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_no_sentence_has_a_question_as_its_subject(page: Path) -> None:
    """Not "What is no address is not kept." but "Values that are not ... are discarded"."""
    prose = blanked(HEADING, blanked(CODE, page.read_text()))
    assert lines_of(QUESTION_AS_SUBJECT, prose) == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_that_a_page_names_exists(page: Path) -> None:
    named = NAMED.findall(page.read_text())
    assert [
        path for path in named if not any((ROOT / place / path).exists() for place in PLACES)
    ] == []


@pytest.mark.parametrize(
    "text",
    ["Whoever runs it", "it is MENDED", "after so many\nseconds", "The view answers the ids"],
)
def test_the_patterns_find_what_they_refuse(text: str) -> None:
    assert any(lines_of(whole(words), text) for words in REFUSED)
    in_a_block = "\n".join(f"    {line}" for line in text.splitlines())
    assert not any(lines_of(whole(words), blanked(CODE, in_a_block)) for words in REFUSED)
