"""The install plan: the agent protocol, section 9. An item that is not safe refuses the plan."""

import hashlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any

from certctrl_agent.errors import PlanError
from certctrl_agent.materials import CA_FILES, CERTIFICATE_FILES

Subject = tuple[str, int]  # ("cert", 7) or ("ca", 3)

NAMES = {"cert": CERTIFICATE_FILES, "ca": CA_FILES}
STARTTLS = ("smtp", "imap", "postgres")
SHELL = ("|", "||", "&", "&&", ";", "<", ">", ">>", "<<")
COMMAND_SECONDS = 60
LONGEST_COMMAND_SECONDS = 600
GRACE_SECONDS = 10
LONGEST_GRACE_SECONDS = 7 * 24 * 3600


@dataclass(frozen=True)
class Command:
    """A command without a shell. `seconds` is its time limit."""

    argv: tuple[str, ...]
    seconds: float
    run_as: str
    env: tuple[tuple[str, str], ...]
    may_fail: bool = False

    def __str__(self) -> str:
        return shlex.join(self.argv)


@dataclass(frozen=True)
class TlsCheck:
    """An address that must serve the new certificate within `grace_seconds`."""

    address: str
    port: int
    sni: str
    starttls: str
    grace_seconds: float

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}" + (f" ({self.sni})" if self.sni else "")


@dataclass(frozen=True)
class Steps:
    """The steps for one certificate or CA, in this order."""

    targets: tuple[tuple[str, str], ...]  # (name of the content, absolute path)
    tests: tuple[Command, ...]
    reloads: tuple[Command, ...]
    tls: tuple[TlsCheck, ...]
    commands: tuple[Command, ...]  # checks after the reload
    compares: bool  # whether the files are read again after the reload

    @property
    def digest(self) -> str:
        return hashlib.sha256(repr(self).encode()).hexdigest()


class Plan:
    """A plan of the server whose items were all checked."""

    def __init__(self, data: Any) -> None:
        if not isinstance(data, dict) or not isinstance(data.get("installs"), list):
            raise PlanError('The plan has no list "installs".')
        self.version = number(data.get("version", 0), "version", "The plan")
        items = [Item(raw, place) for place, raw in enumerate(data["installs"], 1)]
        self.items = ordered([item for item in items if item.enabled])
        targets = [target for item in self.items for _, target in item.pairs]
        for target, count in Counter(targets).items():
            if count > 1:
                raise PlanError(f"The plan has the target {target} {count} times.")

    def subjects(self) -> list[Subject]:
        """Return what the plan copies, each once."""
        return list(dict.fromkeys(item.subject for item in self.items if item.subject))

    def cas_to_trust(self) -> list[int]:
        return [item.ob_id for item in self.items if item.type == "import_ca" and item.ob_id]

    def steps(self, subject: Subject) -> Steps:
        own = [item for item in self.items if item.subject == subject]
        after = {item.id for item in own}
        commands = list[Item]()
        for item in self.items:
            if item.type == "exec" and (not item.depends_on or after & set(item.depends_on)):
                commands.append(item)
                after.add(item.id)
        is_certificate = subject[0] == "cert"
        verified = [item.verify for item in (*own, *commands) if item.verify]
        return Steps(
            targets=tuple(pair for item in own for pair in item.pairs),
            tests=tuple(item.command for item in commands if item.command and item.is_test),
            reloads=tuple(item.command for item in commands if item.command and not item.is_test),
            tls=tuple(each for each in verified if isinstance(each, TlsCheck) and is_certificate),
            commands=tuple(each for each in verified if isinstance(each, Command)),
            compares=any(each == "compare" for each in verified),
        )


class Item:
    """One entry of `installs`."""

    def __init__(self, raw: Any, place: int) -> None:
        if not isinstance(raw, dict):
            raise PlanError(f"Item {place} of the plan is not an object.")
        self.id = str(raw.get("id", f"item {place}"))
        self.name = f"Item {self.id!r} of the plan"
        self.type = raw.get("type")
        self.enabled = raw.get("enabled", True) is not False
        self.depends_on = [str(each) for each in listed(raw, "depends_on", self.name)]
        self.tags = [str(each) for each in listed(raw, "tags", self.name)]
        self.ob_type = raw.get("ob_type") or ""
        self.ob_id = number(raw["ob_id"], "ob_id", self.name) if raw.get("ob_id") else 0
        self.pairs = tuple[tuple[str, str], ...]()
        self.subject: Subject | None = None
        self.command: Command | None = None
        match self.type:
            case "copy":
                self.pairs = self.copied(raw)
                self.subject = (self.ob_type, self.ob_id)
            case "exec":
                if self.ob_type == "cert":
                    raise PlanError(f"{self.name} is an exec of a certificate. Remove its ob_type.")
                self.command = command(raw, self.name)
            case "import_ca":
                if self.ob_type != "ca" or not self.ob_id:
                    raise PlanError(f"{self.name} imports a CA, but names none. Add its ob_id.")
            case _:
                raise PlanError(f"{self.name} has the unknown type {self.type!r}.")
        self.verify = verification(raw.get("verify"), self.name)

    @property
    def is_test(self) -> bool:
        return "test" in self.tags

    def copied(self, raw: dict[str, Any]) -> tuple[tuple[str, str], ...]:
        known = NAMES.get(self.ob_type)
        if known is None or not self.ob_id:
            raise PlanError(
                f'{self.name} needs ob_type "cert" or "ca", and an ob_id. This agent does not look '
                "for an ob_name."
            )
        names, targets = listed(raw, "from", self.name), listed(raw, "to", self.name)
        if len(names) != len(targets) or not names:
            raise PlanError(f'{self.name} needs as many entries in "to" as in "from".')
        for name in names:
            if name not in known:
                raise PlanError(f"{self.name} copies {name!r}. There are: {', '.join(known)}.")
        return tuple(
            (name, checked_target(to, self.name))
            for name, to in zip(names, targets, strict=True)
            if to != ""
        )


def checked_target(target: Any, name: str) -> str:
    if not isinstance(target, str) or "\0" in target:
        raise PlanError(f'{name} has an entry in "to" that is not a path.')
    path = PurePosixPath(target)
    if not target.startswith("/") or target.startswith("//"):
        raise PlanError(f"{name} has the target {target}, which is not absolute.")
    if ".." in path.parts:
        raise PlanError(f'{name} has the target {target}. Write it without "..".')
    if target.endswith("/") or str(path) == "/":
        raise PlanError(f"{name} has the target {target}, which is a folder. Name a file.")
    return str(path)


def command(raw: dict[str, Any], name: str) -> Command:
    argv = raw.get("cmd_argv") or raw.get("cmd")
    if isinstance(argv, str):
        lexer = shlex.shlex(argv, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        try:
            argv = list(lexer)
        except ValueError as error:
            raise PlanError(f"{name} has the command {argv!r}: {error}.") from None
        if operators := [each for each in argv if each in SHELL]:
            raise PlanError(
                f"{name} uses {operators[0]!r}, but commands run without a shell. "
                "Put them into a script, and name that."
            )
    if not isinstance(argv, list) or not argv or not all(isinstance(part, str) for part in argv):
        raise PlanError(f"{name} has no command. Set cmd or cmd_argv.")
    env = raw.get("env") or {}
    if not isinstance(env, dict) or not all(isinstance(value, str) for value in env.values()):
        raise PlanError(f"{name} has an env that is not an object of texts.")
    milliseconds = number(raw.get("timeout_ms") or COMMAND_SECONDS * 1000, "timeout_ms", name)
    return Command(
        argv=tuple(argv),
        seconds=min(milliseconds / 1000, LONGEST_COMMAND_SECONDS),
        run_as=str(raw.get("run_as") or ""),
        env=tuple(sorted(env.items())),
        may_fail=raw.get("continue_on_error") is True,
    )


def verification(raw: Any, name: str) -> TlsCheck | Command | str | None:
    if not raw:
        return None
    if not isinstance(raw, dict):
        raise PlanError(f"{name} has a verify that is not an object.")
    match raw.get("type"):
        case "tls":
            return tls_check(raw, name)
        case "command":
            return command(raw, f"The verify of {name[0].lower()}{name[1:]}")
        case "file_hash" | "cert_fingerprint":
            return "compare"
        case other:
            raise PlanError(f"{name} has the unknown verify type {other!r}.")


def tls_check(raw: dict[str, Any], name: str) -> TlsCheck:
    starttls = raw.get("starttls") or ""
    if starttls and starttls not in STARTTLS:
        raise PlanError(f"{name} has starttls {starttls!r}. There are: {', '.join(STARTTLS)}.")
    address, sni = raw.get("address"), raw.get("sni") or ""
    if not isinstance(address, str) or not address or not isinstance(sni, str):
        raise PlanError(f"{name} verifies TLS, but has no address.")
    port = number(raw.get("port"), "port", name)
    if not 0 < port < 65536:
        raise PlanError(f"{name} has the port {port}.")
    grace = raw.get("grace_seconds")
    grace = number(GRACE_SECONDS if grace is None else grace, "grace_seconds", name)
    return TlsCheck(address, port, sni, starttls, min(grace, LONGEST_GRACE_SECONDS))


def listed(raw: dict[str, Any], member: str, name: str) -> list[Any]:
    value = raw.get(member) or []
    if not isinstance(value, list):
        raise PlanError(f'{name} has a "{member}" that is not a list.')
    return value


def number(value: Any, member: str, name: str) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise PlanError(f'{name} has {value!r} as "{member}". It must be a whole number.')
    return value


def ordered(items: list[Item]) -> list[Item]:
    """Put each item behind those that it depends on. Keep the order of the plan otherwise."""
    known = {item.id for item in items}
    done, rest = dict[str, Item](), list(items)
    if len(known) < len(items):
        raise PlanError("Two items of the plan have the same id.")
    while rest:
        ready = first(item for item in rest if known.isdisjoint({*item.depends_on} - {*done}))
        if ready is None:
            circle = ", ".join(item.id for item in rest)
            raise PlanError(f"These items of the plan depend on each other in a circle: {circle}.")
        done[ready.id] = ready
        rest.remove(ready)
    return list(done.values())


def first(items: Iterable[Item]) -> Item | None:
    iterator: Iterator[Item] = iter(items)
    return next(iterator, None)


def subjects_of(data: Any) -> list[Subject]:
    """Return what a plan names that may be unsafe."""
    installs = data.get("installs") if isinstance(data, dict) else None
    return [
        (item["ob_type"], item["ob_id"])
        for item in (installs if isinstance(installs, list) else [])
        if isinstance(item, dict)
        and item.get("ob_type") in NAMES
        and type(item.get("ob_id")) is int
    ]
