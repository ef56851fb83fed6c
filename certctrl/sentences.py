"""Sentences for people: made and stored once, shown in the language of each reader.

`_("The name %(name)s is too long.", name=name)` makes one. `make translations` finds its text.
See docs/decisions/0063-sentences-are-stored-with-their-parts.md.
"""

import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

from django.db import models
from django.utils import translation

if TYPE_CHECKING:
    TextField = models.TextField[str, str]
else:
    TextField = models.TextField

STORED = "\x1e"  # begins a stored sentence; no text of another party has this character
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
    if isinstance(value, BaseException) and value.args and isinstance(value.args[0], Sentence):
        return value.args[0]
    return str(value)


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
    """Return sentences as one sentence, with `separator` between them."""
    given = list(sentences)
    if not any(isinstance(each, Sentence) for each in given):
        return separator.join(map(str, given))
    if len(given) == 1:
        return given[0]
    parts: dict[str, Part] = {str(at): each for at, each in enumerate(given)}
    return Sentence(separator.join(f"%({name})s" for name in parts), parts)


def part_of(sentence: str, name: str) -> str:
    """Return the outermost part of this name, in the active language, or ""."""
    if not isinstance(sentence, Sentence):
        return ""
    if part := sentence.parts.get(name):
        return str(part)
    nested = (part_of(part, name) for part in sentence.parts.values() if isinstance(part, str))
    return next(filter(None, nested), "")


# --- Storage ---


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
