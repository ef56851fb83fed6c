"""Rules for the tests themselves."""

import re
from pathlib import Path

TESTS = Path(__file__).resolve().parent.parent
LONGEST = 70


def names_of_tests() -> list[str]:
    texts = [file.read_text() for file in sorted(TESTS.rglob("test_*.py"))]
    return [name for text in texts for name in re.findall(r"^ *def (test_\w+)", text, re.MULTILINE)]


def test_a_name_of_a_test_has_at_most_70_characters() -> None:
    assert [name for name in names_of_tests() if len(name) > LONGEST] == []


def test_a_name_of_a_test_has_no_question_as_its_subject() -> None:
    subject = re.compile("test_(what|who|whatever|whoever)_")
    assert [name for name in names_of_tests() if subject.match(name)] == []
