"""One word has one meaning: in the glossary, and among the names of the product's classes."""

import ast
import functools
from collections import defaultdict

import pytest
from django.conf import settings

from tests.prose import APPS

# Django finds these classes by their names.
DJANGOS = {"Command", "Meta", "Migration"}
GLOSSARY = settings.BASE_DIR / "docs/glossary.md"


@functools.cache
def classes() -> list[tuple[str, str, bool]]:
    """Return the name, the file and the place of each class. It may be inside another class."""
    found = []
    for package in APPS:
        for path in sorted((settings.BASE_DIR / package).rglob("*.py")):
            tree = ast.parse(path.read_text())
            outer = {id(each) for each in tree.body}
            for each in ast.walk(tree):
                if isinstance(each, ast.ClassDef) and each.name not in DJANGOS:
                    found.append((each.name, str(path), id(each) in outer))
    return found


def test_no_two_modules_have_a_class_of_the_same_name() -> None:
    places = defaultdict(list)
    for name, path, is_outer in classes():
        if is_outer:
            places[name].append(path)
    assert "CnamePath" in places
    assert not {name: paths for name, paths in places.items() if len(paths) > 1}


def test_no_class_of_a_module_is_named_like_one_inside_a_model() -> None:
    inner = {name for name, _, is_outer in classes() if not is_outer}
    assert "State" in inner
    assert not {(name, path) for name, path, is_outer in classes() if is_outer and name in inner}


@pytest.mark.parametrize("word", ["turn", "rest", "look", "chain", "candidate", "ask", "refused"])
def test_the_glossary_has_one_meaning_of(word: str) -> None:
    assert GLOSSARY.read_text().count(f"| **{word}** |") == 1
