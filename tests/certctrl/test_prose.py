"""The checker of prose (`python -m tests.prose`, a part of `make lint`)."""

import pytest

from tests.prose import check_module, check_page


@pytest.mark.parametrize(
    "text",
    ["Whoever runs it", "it is MENDED", "after so many\nseconds", "The view answers the ids"],
)
def test_a_refused_word_is_found_in_prose_but_not_in_code(text: str) -> None:
    assert check_page(text)
    in_a_block = "\n".join(f"    {line}" for line in text.splitlines())
    assert check_page(in_a_block) == []
    assert check_page(f"```\n{text}\n```") == []


def test_a_finding_names_the_line_and_the_plainer_word() -> None:
    assert check_page("One.\n\n```\na\nb\n```\nIt is mended.") == [(7, "'mended': fix")]


def test_a_question_as_subject_is_found_outside_headings() -> None:
    assert check_page("It works. What is no address is not kept.") != []
    assert check_page("What is an address?") == []
    assert check_page("# What an address is.") == []


def test_a_path_must_exist_below_the_project_or_a_main_app() -> None:
    assert check_page("See `tests/prose.py` and `workflow/`.") == []
    assert check_page("\nSee `tests/nothing.py`.") == [(2, "'tests/nothing.py': no such path")]


MODULE = '''
"""Look at a row.

What is no row is not read.
"""

PAUSE = 2  # seconds, which is dear
# After so many
# seconds it comes again.
WORDS = {"whoever": 1}


def look(name: str) -> None:
    """Look at `dear` rows."""
    raise ValueError(f"The row {name} is made anew.")
'''


def test_docstrings_comments_and_messages_of_a_module_are_checked() -> None:
    assert [(line, finding.partition(":")[0]) for line, finding in check_module(MODULE)] == [
        (4, "'What is no row is not read.'"),
        (7, "'dear'"),
        (8, "'so many seconds'"),
        (9, "'comes again'"),
        (15, "'anew'"),
    ]
