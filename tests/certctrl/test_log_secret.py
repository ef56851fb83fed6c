"""A Secret shows its value only where it is revealed."""

import copy
import json
import logging
import pickle
import traceback

import pytest
from django.core.serializers.json import DjangoJSONEncoder

from certctrl.log import Secret

SESAME = "sesame-5f2c"


def as_json(secret):
    return json.dumps({"a": [secret]}, cls=DjangoJSONEncoder)


SHOWN = {
    "str": str,
    "repr": repr,
    "f-string": lambda secret: f"{secret} {secret!r} {secret!s} {secret:>20}",
    "percent": lambda secret: "%s %r" % (secret, secret),  # noqa: UP031
    "str.format": lambda secret: f"{secret} {secret:s}",
    "in containers": lambda secret: f"{[secret]} {(secret,)} { {secret: secret} }",
    "print to json with a default": lambda secret: json.dumps([secret], default=str),
    "deepcopy": lambda secret: str(copy.deepcopy({"a": secret})),
    "hash": lambda secret: str(hash(secret)),
}
RAISES = {
    "json": json.dumps,
    "json of Django": as_json,
    "join": lambda secret: "".join(["x", secret]),
    "concatenation": lambda secret: "x" + secret,
    "concatenation in front": lambda secret: secret + "x",
    "pickle": pickle.dumps,
    "iteration": list,
    "bytes": lambda secret: b"" + secret,
    "index": lambda secret: secret[0],
}


@pytest.mark.parametrize("show", SHOWN.values(), ids=SHOWN)
def test_a_secret_shows_as_three_stars(show):
    assert SESAME not in show(Secret(SESAME))


def test_three_stars_are_what_is_shown():
    assert f"{Secret(SESAME)}{Secret(SESAME)!r}" == "******"


@pytest.mark.parametrize("use", RAISES.values(), ids=RAISES)
def test_operations_that_would_read_the_value_raise_without_showing_it(use):
    with pytest.raises(TypeError) as caught:
        use(Secret(SESAME))
    assert SESAME not in "".join(traceback.format_exception(caught.value))


def test_a_secret_has_no_attributes_that_hold_it():
    with pytest.raises(TypeError):
        vars(Secret(SESAME))


def test_logging_does_not_show_it(caplog):
    logging.getLogger("anything").warning("with %s and %r", Secret(SESAME), {"a": Secret(SESAME)})
    assert "with *** and {'a': ***}" in caplog.text


def test_reveal_gives_it_out():
    assert Secret(SESAME).reveal() == SESAME
    assert Secret(Secret(SESAME)).reveal() == SESAME


def test_secrets_compare_by_value_and_only_with_secrets():
    assert Secret(SESAME) == Secret(SESAME)
    assert Secret(SESAME) != Secret("other")
    assert Secret(SESAME) != SESAME
    assert len({Secret(SESAME), Secret(SESAME)}) == 1


def test_an_empty_secret_is_false():
    assert not Secret("")
    assert Secret(SESAME)
