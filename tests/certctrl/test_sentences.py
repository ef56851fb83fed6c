"""Sentences are stored with their parts, and shown in the language of each reader."""

import ast
import copy
import json
import pickle
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.conf import settings
from django.utils import translation

from accounts.models import User
from certctrl.errors import ApiError
from certctrl.sentences import (
    MOST_SAID,
    Sentence,
    either,
    first_of,
    joined,
    part_of,
    printable,
    restored,
    said_by,
    stored,
)
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble, Wait
from notices.models import Notice
from tests.prose import APPS, ROOT

CHINESE = "zh-hans"
ZONE = "The zone of %(name)s could not be found"
SAID = "%(what)s The CA says: %(said)s"
REFUSED = "The CA refused the order for %(domain)s."


def refusal() -> Sentence:
    return _(SAID, what=_(REFUSED, domain="example.com"), said="CAA forbids it. (caa)")


def test_a_sentence_is_english_wherever_it_is_compared_or_written():
    zone = _(ZONE, name="example.com")
    with translation.override(CHINESE):
        assert zone == "The zone of example.com could not be found"
        assert json.loads(json.dumps({"what": zone})) == {"what": zone}


def test_a_reader_gets_it_in_their_language_with_words_as_said():
    assert str(refusal()) == (
        "The CA refused the order for example.com. The CA says: CAA forbids it. (caa)"
    )
    with translation.override(CHINESE):
        ours = "CA 拒绝了 example.com 的订单。CA 的答复\N{FULLWIDTH COLON}"
        assert str(refusal()) == f"{ours}CAA forbids it. (caa)"
        assert f"{refusal()}" == str(refusal())
        assert part_of(refusal(), "said") == "CAA forbids it. (caa)"


def test_a_percent_sign_in_a_part_or_a_text_is_a_percent_sign():
    assert _(ZONE, name="100%s") == "The zone of 100%s could not be found"
    assert _("50% of it") == "50% of it"


def test_an_exception_in_a_sentence_keeps_its_own_sentence():
    outer = _("%(why)s The response is sent again.", why=Trouble("x", _(REFUSED, domain="a.org")))
    with translation.override(CHINESE):
        assert str(outer) == "CA 拒绝了 a.org 的订单。将再次发送应答。"


def test_sentences_are_joined_to_one():
    both = joined("; ", [_(ZONE, name="a.org"), _(ZONE, name="b.org")])
    assert both.startswith("The zone of a.org could not be found; The zone of b.org")
    with translation.override(CHINESE):
        assert str(both) == "找不到 a.org 所在的区域\N{FULLWIDTH SEMICOLON}找不到 b.org 所在的区域"
    assert type(joined(", ", ["a", "b"])) is str


@pytest.mark.parametrize(
    ("words", "english", "chinese"),
    [
        (["GET"], "GET", "GET"),
        (["GET", "PUT"], "GET or PUT", "GET 或 PUT"),
        (["GET", "PUT", "POST"], "GET, PUT or POST", "GET, PUT 或 POST"),
    ],
)
def test_alternatives_are_listed_in_the_language_of_the_reader(words, english, chinese):
    assert either(words) == english
    with translation.override(CHINESE):
        assert str(either(words)) == chinese


def test_a_long_list_names_the_first_and_counts_the_others():
    assert first_of(["a", "b"], 2) == "a, b"
    assert first_of(["a", "b", "c"], 1) == "a and 2 more"
    assert first_of(["a", "b"], 2, total=5) == "a, b and 3 more"
    with translation.override(CHINESE):
        assert str(first_of(["a", "b", "c"], 1)) == "a 等\N{FULLWIDTH COMMA}另有 2 个"


def test_an_exception_says_its_sentence_or_else_its_text():
    with translation.override(CHINESE):
        assert str(said_by(ValueError(_(REFUSED, domain="a.org")))) == "CA 拒绝了 a.org 的订单。"
    assert said_by(ValueError("plain")) == "plain"


def test_a_column_restores_the_sentence_with_its_parts():
    assert restored(stored(refusal())) == refusal()
    with translation.override(CHINESE):
        assert str(restored(stored(refusal()))) == str(refusal())


@pytest.mark.parametrize("text", ["", "plain", "100% plain", "a\nb"])
def test_a_text_that_is_no_sentence_is_stored_as_it_is(text):
    assert stored(text) == text
    assert type(restored(text)) is str


def test_a_foreign_text_cannot_pass_for_a_stored_sentence():
    assert restored(stored(stored(refusal()) + "x")) != refusal()
    assert restored(stored(f"{stored('x')}\x1e[1]")) == "x\x1e[1]"
    assert restored(stored("\x1e\x1e[1]")) == "[1]"


@pytest.mark.parametrize("again", [copy.deepcopy, lambda it: pickle.loads(pickle.dumps(it))])
def test_a_copy_of_a_sentence_is_the_same_sentence(again):
    with translation.override(CHINESE):
        assert str(again(refusal())) == str(refusal())


def test_unprintable_parts_are_cleaned_and_a_long_one_is_cut():
    trouble = Trouble("x", _(ZONE, name="a\nb\0"))
    assert trouble.what == "The zone of a b  could not be found"
    with translation.override(CHINESE):
        assert str(trouble.what) == "找不到 a b  所在的区域"
    assert len(printable(_(ZONE, name="a" * MOST_SAID))) == MOST_SAID


@pytest.mark.django_db
@pytest.mark.postgres
def test_the_database_keeps_a_sentence_with_its_parts(alice: User):
    notice = Notice.objects.create(
        owner=alice,
        kind=Notice.Kind.TEST,
        subject=_(REFUSED, domain="example.com"),
        body="as it was said",
        dedupe_key="1",
        raised_at="2026-01-01T00:00:00Z",
        last_raised_at="2026-01-01T00:00:00Z",
    )
    read = Notice.objects.get(pk=notice.pk)
    assert (read.subject, read.body) == (notice.subject, "as it was said")
    with translation.override(CHINESE):
        assert str(read.subject) == "CA 拒绝了 example.com 的订单。"
        assert [str(each) for each in Notice.objects.values_list("subject", flat=True)] == [
            "CA 拒绝了 example.com 的订单。"
        ]


# --- every sentence goes through gettext ---

# The calls whose texts people read, beside the exceptions.
SINKS = {"Done", "Judgement", "Finding", "Denial", "Lane", "Condition", "raise_once", "event"}
VARIABLES = {"what", "subject", "body"}  # the names of sentences
# Messages of commands and of the start stay English.
ENGLISH = (
    *("management", "migrations"),
    *("configfile.py", "datastores.py", "fileset.py", "listening.py"),
)


def exceptions() -> set[str]:
    found: set[type] = {ApiError, Trouble, Wait}
    for each in list(found):
        found |= subclasses(each)
    return {each.__name__ for each in found}


def subclasses(of: type) -> set[type]:
    return set(of.__subclasses__()).union(*map(subclasses, of.__subclasses__()))


def name_of(call: ast.Call) -> str:
    return getattr(call.func, "attr", "") or getattr(call.func, "id", "")


def is_prose(node: ast.AST) -> bool:
    """Return whether the node is a text of three words or more, or one with values in it."""
    match node:
        case ast.Constant(value=str(text)):
            return len(text.split()) > 2
        case ast.JoinedStr(values=values):
            return any(
                isinstance(each, ast.Constant) and " " in str(each.value).strip() for each in values
            )
        case ast.BinOp(left=left, right=right):
            return is_prose(left) or is_prose(right)
        case ast.IfExp(body=body, orelse=orelse):
            return is_prose(body) or is_prose(orelse)
        case ast.BoolOp(values=values):
            return any(map(is_prose, values))
    return False


def untranslated(source: str) -> Iterator[int]:
    """Yield the lines that show people a text that is not through gettext."""
    sinks = SINKS | exceptions()
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call() if name_of(node) in sinks:
                # `fix` is a DNS record.
                keywords = [each.value for each in node.keywords if each.arg != "fix"]
                given = [*node.args, *keywords]
                yield from (each.lineno for each in given if is_prose(each))
            # Such a text becomes that of a refusal. Programmers read texts without a full stop.
            case ast.Call(args=[text]) if name_of(node) == "ValueError" and is_prose(text):
                if ast.unparse(text)[-2:-1] == ".":
                    yield text.lineno
            case ast.Assign(targets=[ast.Name(id=name)], value=value) if name in VARIABLES:
                if is_prose(value):
                    yield value.lineno


# Each of them makes a plain English text of a sentence.
CUTS = {"removesuffix", "removeprefix", "strip", "rstrip", "lstrip", "partition", "split", "lower"}
CUTS |= {"replace", "capitalize", "format"}


def cut(source: str) -> Iterator[int]:
    """Yield the lines that cut a sentence, or join words by an English one."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Call(func=ast.Attribute(value=ast.Attribute(attr=name), attr=attr)):
                if name in VARIABLES and attr in CUTS:
                    yield node.lineno
            case ast.Call(func=ast.Attribute(value=ast.Call() as made, attr=attr)):
                if name_of(made) == "_" and attr in CUTS:
                    yield node.lineno
            case ast.Call(func=ast.Attribute(value=ast.Constant(value=str(text)), attr="join")):
                if text.strip() in ("or", "and"):
                    yield node.lineno


def modules() -> list[Path]:
    return [
        path
        for app in APPS
        if app not in ("backups", "standalone")
        for path in sorted((ROOT / app).rglob("*.py"))
        if not set(ENGLISH) & set(path.parts)
    ]


def test_every_sentence_for_people_goes_through_gettext():
    found = [
        f"{path.relative_to(settings.BASE_DIR)}:{line}"
        for path in modules()
        for line in untranslated(path.read_text())
    ]
    assert found == []


def test_no_sentence_is_cut_and_no_list_has_an_english_word():
    found = [
        f"{path.relative_to(settings.BASE_DIR)}:{line}"
        for path in modules()
        for line in cut(path.read_text())
    ]
    assert found == []


@pytest.mark.parametrize(
    "source",
    ['note = trouble.what.removesuffix(".")', '_("It failed.").rstrip(".")', '" or ".join(known)'],
)
def test_a_cut_sentence_and_an_english_list_are_found(source):
    assert list(cut(source)) == [1]


@pytest.mark.parametrize(
    "source",
    [
        'raise errors.Invalid(f"{name} is too long. Shorten it.")',
        'raise Conflict("It is there already.", field="name")',
        'Trouble("x", "It failed now " + f"at {at}.")',
        'what = "No server answers."',
        'Done("the CA signed it" if signed else "")',
        'raise ValueError(f"{name} has a port. Leave it out.")',
    ],
)
def test_a_sentence_that_gettext_does_not_see_is_found(source):
    assert list(untranslated(source)) == [1]


def test_sentences_through_gettext_are_not_found():
    assert list(untranslated('raise Invalid(_("%(name)s is too long.", name=name))')) == []
