"""Validation of the items of an install plan (docs/reference/devices.md).

Items are stored as they were sent. Unknown members are kept, because agents may know them.
"""

import json
import re
from collections.abc import Mapping, Sequence
from graphlib import CycleError, TopologicalSorter
from typing import Any

from django.utils.translation import gettext_lazy
from drf_spectacular.utils import extend_schema_field
from rest_framework import serializers
from rest_framework.fields import empty

from certctrl.addresses import HOST
from certctrl.api import OneOf
from certctrl.jsonbody import printable
from certctrl.sentences import either

MOST_ITEMS = 200
MOST_BYTES = 128 * 1024
LONGEST_PATH = 4096
LONGEST_COMMAND = 32 * 1024
A_DAY_IN_MS = 86_400_000
# The files that a device can copy, by the type of object.
FILES = {
    "cert": (
        "private.key",
        "certificate.pem",
        "chain.pem",
        "fullchain.pem",
        "certificate.der",
        "bundle.pfx",
        "meta.json",
    ),
    "ca": ("ca.pem", "ca.der", "meta.json"),
}
ABSOLUTE = re.compile(r"(/|[A-Za-z]:[\\/]|\\\\).*", re.DOTALL)
TEXTS = {"type": "array", "items": {"type": "string"}}  # in OpenAPI
CONTROL = re.compile(r"[\x00-\x1f\x7f]")
ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


class OpenSerializer(serializers.Serializer[Any]):
    """Validates the members that it knows, and returns the others as they were sent."""

    def to_internal_value(self, data: Any) -> dict[str, Any]:
        known = super().to_internal_value(data)
        return {**data, **known}


def text(longest: int, **kwargs: Any) -> serializers.CharField:
    return serializers.CharField(max_length=longest, trim_whitespace=False, **kwargs)


def optional_text(longest: int) -> serializers.CharField:
    return text(longest, required=False, allow_null=True, allow_blank=True)


def texts(longest: int, most: int, **kwargs: Any) -> serializers.ListField:
    return serializers.ListField(
        child=text(longest, **kwargs), required=False, allow_null=True, max_length=most
    )


@extend_schema_field({"oneOf": [{"type": "string", "maxLength": 128}, {"type": "integer"}]})
class ItemIdField(serializers.CharField):
    """The id of an item: a text, or a whole number. It is stored as it was sent."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(max_length=128, trim_whitespace=False, **kwargs)

    def run_validation(self, data: Any = empty) -> Any:
        super().run_validation(data)
        return data


class TargetField(serializers.CharField):
    """An absolute path on the device, or "" for a file that is not written."""

    default_error_messages = {
        "relative": gettext_lazy("{path} is not an absolute path. Give the path from the root on."),
        "folder": gettext_lazy("{path} is a folder. Give the path of the file in it."),
        "upwards": gettext_lazy('{path} has the part "..". Give the path without it.'),
        "control": gettext_lazy("{path} has a control character. Remove it."),
    }

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_blank=True, max_length=LONGEST_PATH, trim_whitespace=False, **kwargs)

    def to_internal_value(self, data: Any) -> str:
        path = super().to_internal_value(data)
        shown = printable(path)
        if CONTROL.search(path):
            self.fail("control", path=shown)
        if path and not ABSOLUTE.fullmatch(path):
            self.fail("relative", path=shown)
        parts = re.split(r"[\\/]", path)
        if ".." in parts:
            self.fail("upwards", path=shown)
        if path and parts[-1] in ("", "."):
            self.fail("folder", path=shown)
        return path


@extend_schema_field({"oneOf": [{"type": "string"}, TEXTS]})
class CommandField(serializers.Field[Any, Any, Any, Any]):
    """A command: one text, or a list with the program and its arguments. An empty one is none."""

    default_error_messages = {
        "invalid": gettext_lazy("This is no command. Send a text, or a list of texts."),
        "empty": gettext_lazy("The command is empty. Name a program."),
        "long": gettext_lazy("The command is longer than {most} characters. Put it into a file."),
    }

    is_list = False

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(required=False, allow_null=True, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        if data in ("", []):
            return data
        words = [data] if isinstance(data, str) and not self.is_list else data
        if not isinstance(words, list) or not all(isinstance(each, str) for each in words):
            self.fail("invalid")
        if not words[0].strip():
            self.fail("empty")
        if sum(map(len, words)) > LONGEST_COMMAND:
            self.fail("long", most=LONGEST_COMMAND)
        return data


@extend_schema_field(TEXTS)
class ArgumentsField(CommandField):
    """A command as the list of its program and arguments."""

    is_list = True


class EnvironmentField(serializers.DictField):
    default_error_messages = {"name": gettext_lazy("{name} is no name of an environment variable.")}

    def __init__(self, **kwargs: Any) -> None:
        child = text(LONGEST_COMMAND, allow_blank=True)
        super().__init__(child=child, required=False, allow_null=True, **kwargs)

    def to_internal_value(self, data: Any) -> Any:
        variables = super().to_internal_value(data)
        for name in variables:
            if not ENVIRONMENT_NAME.fullmatch(name):
                self.fail("name", name=printable(name))
        return variables


class VerifySerializer(OpenSerializer):
    """How the agent checks what it did. `tls` is a handshake with an address."""

    type = OneOf(["file_hash", "cert_fingerprint", "command", "tls"])
    address = serializers.RegexField(
        rf"(?i)\A({HOST.pattern})\Z",
        required=False,
        max_length=253,
        error_messages={
            "invalid": gettext_lazy("This is no address. Give a host name or an IP address.")
        },
    )
    port = serializers.IntegerField(required=False, min_value=1, max_value=65535)
    sni = optional_text(253)
    starttls = OneOf(["smtp", "imap", "postgres"], required=False, allow_null=True)
    grace_seconds = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=86400
    )
    cmd = CommandField()
    cmd_argv = ArgumentsField()

    default_error_messages = {
        "no_address": gettext_lazy("A handshake (tls) needs address and port. Add {name}."),
    }

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        for name in ("address", "port"):
            if attrs["type"] == "tls" and name not in attrs:
                self.fail("no_address", name=name)
        return attrs


class OptionalVerifyField(VerifySerializer):
    """A `verify`, or an empty object for none."""

    def run_validation(self, data: Any = empty) -> Any:
        return data if data == {} else super().run_validation(data)


class ItemsSerializer(serializers.ListSerializer[Any]):
    default_error_messages = {
        "max_length": gettext_lazy("An install plan has at most {max_length} items."),
        "large": gettext_lazy("The items have more than {most} bytes of JSON. Send less."),
        "twice": gettext_lazy('Two items have the id "{id}". Give each its own.'),
        "unknown": gettext_lazy('The item "{id}" depends on "{on}", and no item has that id.'),
        "cycle": gettext_lazy("These items depend on each other: {ids}. Remove one dependency."),
    }

    def to_internal_value(self, data: Any) -> list[Any]:
        items: list[Any] = super().to_internal_value(data)
        if len(json.dumps(items)) > MOST_BYTES:
            self.fail("large", most=MOST_BYTES)
        depends_on: dict[str, Sequence[str]] = {}
        for item in items:
            id = str(item["id"])
            if id in depends_on:
                self.fail("twice", id=printable(id))
            depends_on[id] = [str(each) for each in item.get("depends_on") or ()]
        for id, others in depends_on.items():
            for on in others:
                if on not in depends_on:
                    self.fail("unknown", id=printable(id), on=printable(on))
        try:
            TopologicalSorter(depends_on).prepare()
        except CycleError as cycle:
            self.fail("cycle", ids=", ".join(map(printable, cycle.args[1])))
        return items


class ItemSerializer(OpenSerializer):
    """One item of an install plan: copy files, run a command, or trust a CA.

    Agents write a member that is not set as null, as an empty value, or not at all.
    """

    id = ItemIdField()
    type = OneOf(["copy", "exec", "import_ca"])
    enabled = serializers.BooleanField(required=False, allow_null=True)
    continue_on_error = serializers.BooleanField(required=False, allow_null=True)
    depends_on = serializers.ListField(
        child=ItemIdField(), required=False, allow_null=True, max_length=MOST_ITEMS
    )
    tags = texts(64, 20)
    ob_type = OneOf(list(FILES), required=False, allow_null=True, allow_blank=True)
    ob_id = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=10**18 - 1
    )
    ob_name = optional_text(255)
    to = serializers.ListField(child=TargetField(), required=False, allow_null=True, max_length=20)
    cmd = CommandField()
    cmd_argv = ArgumentsField()
    timeout_ms = serializers.IntegerField(
        required=False, allow_null=True, min_value=0, max_value=A_DAY_IN_MS
    )
    run_as = optional_text(64)
    env = EnvironmentField()
    verify = OptionalVerifyField(required=False, allow_null=True)

    class Meta:
        list_serializer_class = ItemsSerializer

    default_error_messages = {
        "no_object": gettext_lazy("{type} needs ob_type ({known}), and ob_id. Add them."),
        "not_a_file": gettext_lazy(
            'There is no file "{name}" of a {ob_type}. Choose one of {known}.'
        ),
        "pairs": gettext_lazy(
            "from has {sources} files and to has {targets}. Give each file its target."
        ),
        "no_command": gettext_lazy("exec needs cmd or cmd_argv. Add one."),
        "of_certificate": gettext_lazy(
            "A certificate has no exec. Leave out ob_type and ob_id, and in"
            " depends_on name the item that copies the certificate."
        ),
    }

    def get_fields(self) -> dict[str, Any]:
        # `from` cannot be the name of an attribute.
        return super().get_fields() | {"from": texts(64, 20)}

    def validate(self, attrs: dict[str, Any]) -> dict[str, Any]:
        match attrs["type"]:
            case "copy":
                self.refuse_no_object(attrs, tuple(FILES))
                if not attrs.get("from") or len(attrs["from"]) != len(attrs.get("to") or ()):
                    self.fail("pairs", **self.sizes(attrs))
            case "import_ca":
                self.refuse_no_object(attrs, ("ca",))
            case "exec" if attrs.get("ob_type") == "cert":
                self.fail("of_certificate")
            case "exec" if not attrs.get("cmd") and not attrs.get("cmd_argv"):
                self.fail("no_command")
        known = FILES.get(attrs.get("ob_type") or "", ())
        for name in attrs.get("from") or ():
            if known and name not in known:
                names = {"name": printable(name), "known": ", ".join(known)}
                self.fail("not_a_file", ob_type=attrs["ob_type"], **names)
        return attrs

    def refuse_no_object(self, attrs: Mapping[str, Any], known: Sequence[str]) -> None:
        named = attrs.get("ob_id") or (attrs["type"] == "copy" and attrs.get("ob_name"))
        if attrs.get("ob_type") not in known or not named:
            self.fail("no_object", type=attrs["type"], known=either(known))

    def sizes(self, attrs: Mapping[str, Any]) -> dict[str, int]:
        return {
            "sources": len(attrs.get("from") or ()),
            "targets": len(attrs.get("to") or ()),
        }
