"""Sentences for people: made and stored once, shown in the language of each reader.

`_("The name %(name)s is too long.", name=name)` makes one. `make translations` finds its text.
See docs/decisions/0063-sentences-are-stored-with-their-parts.md.
"""

import json
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from typing import TYPE_CHECKING, Any

from django.db import models
from django.utils import translation
from django.utils.translation import gettext_noop

if TYPE_CHECKING:
    TextField = models.TextField[str, str]
else:
    TextField = models.TextField

MOST_SAID = 4000  # characters of a stored sentence
STORED = "\x1e"  # begins a stored sentence; no text of another party has this character
SEPARATORS = (gettext_noop(", "), gettext_noop("; "), gettext_noop(": "), gettext_noop(". "))
Part = str | int | float


class Sentence(str):
    """An English sentence with the parts that it was made from.

    As a text it is English: it is compared, searched, logged and posted so. `str()` returns it in
    the active language, so pages, the API and mails show it so. This is like Django's lazy texts,
    but it can be stored. The parts in `parts` are quoted as they are, except for other sentences.
    """

    text: str
    parts: dict[str, Part]

    def __new__(cls, text: str, parts: dict[str, Part]) -> "Sentence":
        made = super().__new__(cls, text % _in_english(parts) if parts else text)
        made.text = text
        made.parts = parts
        return made

    def __getnewargs__(self) -> tuple[str, dict[str, Part]]:  # type: ignore[override]
        return self.text, self.parts

    def __str__(self) -> str:
        language = translation.get_language()
        if not language or language.startswith("en"):
            return str.__str__(self)
        text = translation.gettext(self.text)
        return text % self.parts if self.parts else text


def sentence(text: str, /, **parts: Any) -> Sentence:
    """Return a sentence. It is imported as `_`, so that gettext finds the text."""
    for name, value in parts.items():
        if not isinstance(value, (str, int, float)):
            parts[name] = _part(value)
    return Sentence(text, parts)


def _part(value: Any) -> Part:
    return said_by(value) if isinstance(value, BaseException) else str(value)


def said_by(exc: BaseException) -> str:
    """Return the sentence of an exception, or its text when it has none."""
    return exc.args[0] if exc.args and isinstance(exc.args[0], Sentence) else str(exc)


def _in_english(parts: dict[str, Part]) -> dict[str, Part]:
    if Sentence not in map(type, parts.values()):
        return parts
    return {
        name: str.__str__(value) if isinstance(value, Sentence) else value
        for name, value in parts.items()
    }


def with_parts(sentence: str, change: Callable[[str], str]) -> str:
    """Return the sentence with `change` done to each of its texts. Its own words stay."""
    if not isinstance(sentence, Sentence):
        return change(sentence)
    parts = {
        name: with_parts(each, change) if isinstance(each, str) else each
        for name, each in sentence.parts.items()
    }
    return Sentence(sentence.text, parts)


def joined(separator: str, sentences: Iterable[str]) -> str:
    """Return sentences as one sentence, with `separator` between them.

    Each language has its own form of a separator in SEPARATORS. Chinese has no space.
    """
    given = list(sentences)
    if not any(isinstance(each, Sentence) for each in given):
        return separator.join(map(str, given))
    if len(given) == 1:
        return given[0]
    if separator == " ":
        return reduce(_followed, given)
    parts: dict[str, Part] = {str(at): each for at, each in enumerate(given)}
    between = "%(separator)s" if separator in SEPARATORS else separator
    text = between.join(f"%({name})s" for name in parts)
    return Sentence(text, parts | {"separator": Sentence(separator, {})})


def _followed(first: str, then: str) -> Sentence:
    return sentence(gettext_noop("%(first)s %(then)s"), first=first, then=then)


def either(words: Iterable[str]) -> str:
    """Return words as alternatives, for example "a, b or c"."""
    *others, last = words
    if not others:
        return last
    return sentence(gettext_noop("%(others)s or %(last)s"), others=joined(", ", others), last=last)


def first_of(words: Sequence[str], most: int, total: int = 0) -> str:
    """Return the first `most` words, and how many more there are: "a, b and 3 more".

    `total` is their number, if not all of them are given.
    """
    listed, more = joined(", ", words[:most]), max(total, len(words)) - most
    if more <= 0:
        return listed
    return sentence(gettext_noop("%(listed)s and %(more)s more"), listed=listed, more=more)


def part_of(sentence: str, name: str) -> str:
    """Return the outermost part of this name, in the active language, or ""."""
    if not isinstance(sentence, Sentence):
        return ""
    if part := sentence.parts.get(name):
        return str(part)
    nested = (part_of(part, name) for part in sentence.parts.values() if isinstance(part, str))
    return next(filter(None, nested), "")


# --- Storage ---


def printable(what: str) -> str:
    """Return the sentence with unprintable characters as spaces, cut to MOST_SAID characters.

    Sentences quote text from other servers, and each attempt and event stores them. No text column
    accepts a NUL character. A sentence that was cut is in English only.
    """
    if len(what) <= MOST_SAID and what.isprintable():  # and so are the parts in it
        return what
    if isinstance(what, Sentence):
        clean = with_parts(what, printable) if what.parts else what
        if len(clean) <= MOST_SAID:
            return clean
    what = what if len(what) <= MOST_SAID else what[: MOST_SAID - 1] + "\N{HORIZONTAL ELLIPSIS}"
    return "".join(each if each.isprintable() else " " for each in what)


def stored(sentence: str) -> str:
    """Return the form of a sentence in a column. A text that is no sentence stays as it is."""
    if not isinstance(sentence, Sentence):
        return sentence.lstrip(STORED)
    return STORED + json.dumps(_packed(sentence), ensure_ascii=False)


def _packed(part: Part) -> Any:
    if not isinstance(part, Sentence):
        return part
    return [part.text, {name: _packed(each) for name, each in part.parts.items()}]


def restored(column: str) -> str:
    """Return the sentence of a column that `stored` made."""
    if not column.startswith(STORED):
        return column
    restored = _unpacked(json.loads(column[len(STORED) :]))
    assert isinstance(restored, str)
    return restored


def _unpacked(part: Any) -> Part:
    if not isinstance(part, list):
        return part  # type: ignore[no-any-return]
    text, parts = part
    return Sentence(text, {name: _unpacked(each) for name, each in parts.items()})


class SentenceField(TextField):
    """A column that keeps the parts of a sentence, so that each reader has it in their language."""

    def from_db_value(self, value: str | None, expression: Any, connection: Any) -> str | None:
        return value if value is None else restored(value)

    def get_prep_value(self, value: Any) -> Any:
        prepared = super().get_prep_value(value)
        return stored(prepared) if isinstance(prepared, str) else prepared
