"""Install a version, prove that it is served, or go back to the version before it.

The state has a record for each certificate and CA. A version is on *trial* from before the switch
until it is proved. A killed agent continues its trials when it starts again.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from cryptography import x509

from certctrl_agent import commands, handshake
from certctrl_agent.errors import AgentError, CheckError
from certctrl_agent.materials import SECRET_FILES
from certctrl_agent.plan import Command, Steps, Subject
from certctrl_agent.state import State
from certctrl_agent.versions import Versions

RECORDS = "installs"
# After a reload, old processes of a server may serve for a moment beside the new ones. So the new
# certificate must be seen several times in a row.
LOOKS = 3
BETWEEN_LOOKS = 0.2  # seconds
LONGEST_LOOK = 30.0  # seconds between two handshakes in a long grace period
HOUR = 3600.0  # until an install that changed nothing is tried again
DAY = 24 * HOUR  # until a version that was rolled back is tried again
NEVER = math.inf


@dataclass(frozen=True)
class Wanted:
    """A version that must be installed. `contents` opens its key, so it is called when needed."""

    subject: Subject
    serial: str
    fingerprint: str
    certificate: x509.Certificate
    steps: Steps
    contents: Callable[[], dict[str, bytes]]

    @property
    def identity(self) -> str:
        return f"{self.fingerprint} {self.steps.digest}"

    @property
    def name(self) -> str:
        return f"{self.subject[0]}-{self.subject[1]}"


class Installer:
    """`log` shows a line to people. `now` returns seconds since the epoch."""

    def __init__(
        self, state: State, log: Callable[[str], None], now: Callable[[], float] = time.time
    ) -> None:
        self.state = state
        self.log = log
        self.now = now

    def advance(self, wanted: Wanted) -> float:
        """Do what can be done now. Return the seconds until there is more, or NEVER."""
        records = self.state.load(RECORDS, {})
        record: dict[str, Any] = records.setdefault(wanted.name, {})
        install = Install(self, wanted, records, record)
        try:
            return install.advance()
        except (AgentError, OSError) as error:
            if "trial" in record:
                raise  # the next pass continues it
            return install.fail(str(error))

    def try_again(self) -> None:
        """Forget which versions failed, so that they are tried again."""
        records = self.state.load(RECORDS, {})
        for record in records.values():
            record.pop("failed", None)
        self.state.save(RECORDS, records)

    def run(self, command: Command) -> None:
        self.log(f"Running {command}")
        try:
            commands.run(command)
        except CheckError as error:
            if not command.may_fail:
                raise
            self.log(f"{error} The plan lets it fail.")


class Install:
    """One subject, in one pass."""

    def __init__(
        self, installer: Installer, wanted: Wanted, records: dict[str, Any], record: dict[str, Any]
    ) -> None:
        self.installer = installer
        self.state = installer.state
        self.wanted = wanted
        self.steps = wanted.steps
        self.records = records
        self.record = record
        targets = [target for _, target in wanted.steps.targets]
        self.versions = Versions(wanted.subject, targets, self.state.live)

    def advance(self) -> float:
        if "trial" not in self.record:
            self.versions.remove_others()  # a killed install left them
        if self.is_done():
            return NEVER
        failed = self.record.get("failed", {})
        if failed.get("identity") == self.wanted.identity:
            remaining = failed["again_at"] - self.installer.now()
            if 0 < remaining <= DAY:
                return float(remaining)
        trial = self.record.get("trial")
        if trial and trial["identity"] != self.wanted.identity:
            self.end_trial(trial)
            trial = None
        trial = trial or self.begin()
        if not trial.get("rolling_back"):
            try:
                return self.prove(trial)
            except (CheckError, OSError) as error:
                trial["rolling_back"] = str(error)
                self.save()
        return self.roll_back(trial)

    def is_done(self) -> bool:
        done = self.record.get("done", {})
        is_same = done.get("identity") == self.wanted.identity and "trial" not in self.record
        return is_same and self.versions.shows(done["version"])

    def end_trial(self, trial: dict[str, Any]) -> None:
        """Show the files before a trial again, because a newer version is wanted."""
        targets = trial["targets"]
        Versions(self.wanted.subject, targets, self.state.live).show(trial["previous"])
        del self.record["trial"]
        self.save()

    def begin(self) -> dict[str, Any]:
        """Write all new files beside the old ones. The last line puts them on trial."""
        self.versions.check()
        made = self.wanted.contents()
        contents = {target: made[name] for name, target in self.steps.targets}
        secret = {target for name, target in self.steps.targets if name in SECRET_FILES}
        version = self.versions.stage(contents, secret)
        previous = self.versions.adopt()
        trial = {
            "identity": self.wanted.identity,
            "serial": self.wanted.serial,
            "targets": list(contents),
            "version": version,
            "previous": previous,
        }
        self.record["trial"] = trial
        self.record.pop("failed", None)
        self.save()
        return trial

    def prove(self, trial: dict[str, Any]) -> float:
        """Switch, test, reload, and look until the new certificate is served."""
        if "reloaded_at" not in trial:
            self.versions.show(trial["version"])
            for command in self.steps.tests:
                self.installer.run(command)
            trial["reloads"] = True
            self.save()
            for command in self.steps.reloads:
                self.installer.run(command)
            self.check_files()
            for command in self.steps.commands:
                self.installer.run(command)
            trial["reloaded_at"] = self.installer.now()
            self.save()
            self.report("installed", f"The files of serial {self.wanted.serial} are in place.")
        elapsed = self.installer.now() - trial["reloaded_at"]
        if elapsed < 0:  # the clock was set back, so the grace period begins again
            trial["reloaded_at"], elapsed = self.installer.now(), 0.0
            self.save()
        for check in self.steps.tls:
            try:
                handshake.confirm(check, self.wanted.certificate)
            except CheckError as error:
                if elapsed >= check.grace_seconds:
                    raise
                self.installer.log(f"{error} Looking again.")
                trial["looks"] = 0
                self.save()
                remaining = check.grace_seconds - elapsed
                return float(min(0.5 + elapsed / 10, remaining, LONGEST_LOOK))
        trial["looks"] = trial.get("looks", 0) + 1
        if self.steps.tls and trial["looks"] < LOOKS:
            self.save()
            return BETWEEN_LOOKS
        self.finish(trial)
        return NEVER

    def check_files(self) -> None:
        """Read the targets again, where the plan asks for it."""
        if self.steps.compares and not self.versions.shows(self.record["trial"]["version"]):
            raise CheckError("Another program has changed the targets during the install.")

    def finish(self, trial: dict[str, Any]) -> None:
        if self.steps.tls:
            served = ", ".join(str(check) for check in self.steps.tls)
            self.report("served", f"{served} serves serial {self.wanted.serial}.")
        del self.record["trial"]
        self.record.pop("failed", None)
        self.record["done"] = {
            "identity": self.wanted.identity,
            "serial": self.wanted.serial,
            "version": trial["version"],
            "at": self.installer.now(),
        }
        self.save()
        self.versions.remove_others()

    def roll_back(self, trial: dict[str, Any]) -> float:
        """Show the files before the trial, and reload if the server may have read the new ones."""
        what, state = trial["rolling_back"], "rolled_back"
        self.versions.show(trial["previous"])
        try:
            for command in self.steps.reloads if trial.get("reloads") else ():
                self.installer.run(command)
        except CheckError as error:
            state = "failed"
            what = f"{what} The previous files are back, but then this failed too: {error}"
        seconds = self.fail(what, state, DAY)
        self.versions.remove_others()
        return seconds

    def fail(self, what: str, state: str = "failed", seconds: float = HOUR) -> float:
        """Record why this version is not installed. It is tried again in `seconds`."""
        self.record.pop("trial", None)
        self.record["failed"] = {
            "identity": self.wanted.identity,
            "serial": self.wanted.serial,
            "state": state,
            "what": what,
            "at": self.installer.now(),
            "again_at": self.installer.now() + seconds,
        }
        self.report(state, what)
        self.save()
        return seconds

    def report(self, state: str, what: str) -> None:
        kind, number = self.wanted.subject
        self.installer.log(f"{self.wanted.name}: {state}. {what}")
        if kind == "cert":
            self.state.report(deployment(number, self.wanted.serial, state, what))

    def save(self) -> None:
        self.state.save(RECORDS, self.records)


def deployment(cert_id: int, serial: str, state: str, what: str) -> dict[str, Any]:
    """Return the event that reports how an install went."""
    return {
        "type": "deployment",
        "cert_id": cert_id,
        "serial": serial,
        "state": state,
        "what": shown(what),
    }


def shown(what: str) -> str:
    """Return a reason as servers take it: without control characters, and not too long."""
    return "".join(each if each.isprintable() or each in "\n\t" else " " for each in what)[:2000]
