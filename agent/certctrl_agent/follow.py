"""Follow the server, and install what it has. Without the server, work from what is here."""

import contextlib
import time
from collections.abc import Callable
from threading import Event
from typing import Any

from certctrl_agent import __version__, script, trust
from certctrl_agent.backoff import Backoff
from certctrl_agent.challenges import Challenges
from certctrl_agent.config import Config
from certctrl_agent.errors import (
    AgentError,
    CheckError,
    InstallError,
    LoginNeeded,
    MaterialError,
    NotReady,
    PlanError,
    RefusedByServer,
    ServerAway,
)
from certctrl_agent.install import DAY, NEVER, RECORDS, Installer, Wanted, deployment, shown
from certctrl_agent.materials import Chain, Material, ca_files
from certctrl_agent.plan import Plan, Subject, subjects_of
from certctrl_agent.server import DeviceClient
from certctrl_agent.state import State
from certctrl_agent.stopping import Stop, Stopped
from certctrl_agent.websocket import WebSocket

WAIT = 30  # seconds that the server holds a poll
SHORT = 5.0  # seconds: for less than that, no poll is begun
LONGEST_PAUSE = 300.0  # between two questions for a key, and after a refusal of the server
SIGNALS = 50  # in one response
TRIES = 3  # of a certificate that is renewed between its two requests
SCHEMA = "certctrl.device.notify.v1"
HOUR = 3600.0
KINDS = {"cert": "certificates", "ca": "cas"}


class Follower:
    """The agent's work. `log` shows a line to people."""

    def __init__(
        self, state: State, log: Callable[[str], None], now: Callable[[], float] = time.time
    ) -> None:
        self.state = state
        self.log = log
        self.now = now
        self.config = Config.of(state.folder)
        self.client = DeviceClient(state)
        self.websocket: WebSocket | None = None
        self.installer = Installer(state, log, now)
        self.pending = dict[str, tuple[float, Backoff]]()  # not before this moment
        self.away = Backoff(1, 120)
        self.interval = float(WAIT)
        self.trust_backoff = Backoff(60, HOUR)
        self.trust_at = 0.0  # not before this moment is the trust store updated again
        self.may_wait = True

    # --- One pass ---

    def begin(self) -> None:
        """Ask for everything again, and try again what failed."""
        with self.state.lock("work"):
            self.state.remove_leftovers()
            self.state.report(
                {
                    "type": "agent_version",
                    "agent": "certctrl-agent",
                    "version": __version__,
                    "device_public_id": self.state.public_id(),
                }
            )
            self.resync()
            self.installer.try_again()

    def resync(self, **changes: Any) -> None:
        progress = self.progress() | {"everything": True, "checked_at": self.now()}
        self.state.save("progress", progress | changes)

    def work(self) -> float:
        """Fetch what is stale, and install it. Return the seconds until there is more to do.

        Raise AgentError when the server gave nothing. Fetched versions are installed before that.
        """
        with self.state.lock("work"):
            error = self.attempt(self.fetch)
            due = self.advance()
            self.run_script()
            error = self.attempt(self.send_reports) or error
        if error:
            raise error
        later = [moment - self.now() for moment, _ in self.pending.values()]
        return max(0.0, min([due, *later]))

    def attempt(self, call: Callable[[], None]) -> AgentError | None:
        try:
            call()
        except AgentError as error:
            return error
        return None

    def progress(self) -> dict[str, Any]:
        start: dict[str, Any] = {"cursor": "", "everything": True, "stale": [], "gone": []}
        start.update(self.state.load("progress", {}))
        return start

    # --- Fetch ---

    def fetch(self) -> None:
        progress = self.progress()
        if not 0 <= self.now() - progress.get("checked_at", 0) < DAY:
            self.resync()
            progress = self.progress()
        if progress["everything"]:
            plan = self.client.get("/install-config", "the install plan")
            self.state.save("plan", plan)
            subjects = [*subjects_of(plan), *map(tuple, progress["stale"])]
            progress["stale"] = [list(subject) for subject in dict.fromkeys(subjects)]
            progress["everything"] = False
            self.state.save("progress", progress)
        for kind, number in list(progress["stale"]):
            if self.fetch_one((kind, number)):
                progress["stale"].remove([kind, number])
                self.state.save("progress", progress)
        for kind, number in list(progress["gone"]):
            if self.forget((kind, number)):
                progress["gone"].remove([kind, number])
                self.state.save("progress", progress)

    def fetch_one(self, subject: Subject) -> bool:
        """Return whether there is nothing left to ask for this certificate or CA."""
        name = f"{KINDS[subject[0]]}/{subject[1]}"
        moment, backoff = self.pending.get(name, (0.0, Backoff(3, LONGEST_PAUSE)))
        if 0 < moment - self.now() <= 2 * LONGEST_PAUSE:
            return False
        try:
            if subject[0] == "ca":
                self.fetch_ca(subject[1])
            else:
                self.fetch_certificate(subject[1])
        except NotReady as error:
            seconds = backoff.failed(error.retry_after)
            self.pending[name] = (self.now() + seconds, backoff)
            self.log(f"{error} Asking again in {seconds:.0f} s.")
            return False
        except (RefusedByServer, MaterialError) as error:
            self.log(str(error))
        self.pending.pop(name, None)
        return True

    def opens(self, known: dict[str, Any]) -> bool:
        """Whether the key of this device opens the bundle. It does not after a new login."""
        try:
            Material.of(known["detail"], known["bundle"], self.state.key())
        except MaterialError:
            return False
        return True

    def fetch_certificate(self, number: int) -> None:
        path, name = f"/certificates/{number}", f"certificates/{number}"
        for left in reversed(range(TRIES)):
            detail = self.client.get(path, f"certificate {number}")
            chain = Chain.of(detail)
            known = self.state.load(name)
            is_known = known and Chain.of(known["detail"]).fingerprint == chain.fingerprint
            if is_known and self.opens(known):
                return
            bundle = self.client.get(f"{path}/deploy-materials", f"certificate {number}")
            try:
                Material.of(detail, bundle, self.state.key())
            except MaterialError as error:
                if left:
                    continue
                self.state.report(deployment(number, chain.serial, "failed", str(error)))
                raise
            self.state.save(name, {"detail": detail, "bundle": bundle})
            self.log(f"Fetched certificate {number}, serial {chain.serial}.")
            return

    def fetch_ca(self, number: int) -> None:
        bundle = self.client.get(f"/cas/{number}/bundle", f"CA {number}")
        ca_files(bundle)
        self.state.save(f"cas/{number}", bundle)

    def forget(self, subject: Subject) -> bool:
        """Drop what is here of a certificate or CA. Files that are installed stay.

        Return False if this machine still trusts the CA.
        """
        self.state.forget(f"{KINDS[subject[0]]}/{subject[1]}")
        return subject[0] == "cert" or self.set_trust(subject[1], None)

    # --- Install ---

    def advance(self) -> float:
        """Install what is here. Return the seconds until there is more to do."""
        return min(self.install(), self.update_trust())

    def install(self) -> float:
        raw = self.state.load("plan")
        if raw is None:
            return NEVER
        try:
            plan = Plan(raw)
        except PlanError as error:
            self.refuse_plan(raw, error)
            return NEVER
        due = NEVER
        for subject in plan.subjects():
            try:
                wanted = self.wanted(plan, subject)
                if wanted is not None:
                    due = min(due, self.installer.advance(wanted))
            except (AgentError, OSError) as error:
                self.log(f"{subject[0]} {subject[1]}: {error} Trying again in a minute.")
                due = min(due, 60.0)
        self.trust(plan)
        return due

    def refuse_plan(self, raw: Any, error: PlanError) -> None:
        """Report a plan that is not safe, once."""
        version = raw.get("version") if isinstance(raw, dict) else None
        progress = self.progress()
        if progress.get("refused") == [version, str(error)]:
            return
        self.log(f"{error} Nothing of the plan is done.")
        for kind, number in dict.fromkeys(subjects_of(raw)):
            if kind == "cert" and (known := self.state.load(f"certificates/{number}")):
                serial = Chain.of(known["detail"]).serial
                self.state.report(deployment(number, serial, "failed", str(error)))
        self.state.save("progress", progress | {"refused": [version, str(error)]})

    def wanted(self, plan: Plan, subject: Subject) -> Wanted | None:
        known = self.state.load(f"{KINDS[subject[0]]}/{subject[1]}")
        if known is None:
            return None
        steps = plan.steps(subject)
        if subject[0] == "ca":
            pem = Chain.of({"cert": known["ca_certificate_pem"]})
            return Wanted(
                subject, pem.serial, pem.fingerprint, pem.leaf, steps, lambda: ca_files(known)
            )
        chain = Chain.of(known["detail"])
        return Wanted(
            subject, chain.serial, chain.fingerprint, chain.leaf, steps, lambda: self.opened(known)
        )

    def opened(self, known: dict[str, Any]) -> dict[str, bytes]:
        material = Material.of(known["detail"], known["bundle"], self.state.key())
        return material.files(self.pfx_password())

    def pfx_password(self) -> bytes | None:
        """Return the first line of `pfx-password` in the state folder, for `bundle.pfx`."""
        path = self.state.folder / "pfx-password"
        return path.read_bytes().splitlines()[0] if path.exists() else None

    def trust(self, plan: Plan) -> None:
        wanted = {*plan.cas_to_trust(), *self.progress().get("trusted", [])}
        for number in sorted(wanted):
            if known := self.state.load(f"cas/{number}"):
                self.set_trust(number, ca_files(known)["ca.pem"])

    def set_trust(self, number: int, pem: bytes | None) -> bool:
        """Put the file of a CA into the trust store, or remove it. Return whether that is done.

        The disk says that the store must be updated before the file changes, so that a killed
        agent updates it later.
        """
        name, what = f"CA {number}", ""
        try:
            store = trust.of_this_machine()
            if store is None and pem is not None:
                raise InstallError("This machine has no trust store that the agent knows.")
            if store and not store.has(number, pem):
                self.state.save("trust", {"is_stale": True})
                self.trust_at = 0.0
                store.put(number, pem)
                self.log(f"This machine {'trusts' if pem else 'no longer trusts'} {name}.")
        except (InstallError, OSError) as error:
            what = f"{name}: {error}"
        self.note_problem(name, what)
        return not what

    def update_trust(self) -> float:
        """Update the trust store after a change. Return the seconds until it is tried again."""
        if not self.state.load("trust", {}).get("is_stale"):
            return NEVER
        remaining = self.trust_at - self.now()
        if 0 < remaining <= 2 * HOUR:
            return remaining
        try:
            store = trust.of_this_machine()
            if store:
                store.run()
        except (InstallError, OSError) as error:
            seconds = self.trust_backoff.failed()
            self.trust_at = self.now() + seconds
            self.note_problem("trust", f"{error} It is tried again.")
            return seconds
        self.state.save("trust", {"is_stale": False})
        self.trust_backoff.reset()
        self.note_problem("trust", "")
        return NEVER

    # --- The script ---

    def run_script(self) -> None:
        """Run the script of the plan after the work for a signal, once for each type.

        It does not run after a version that could not be installed. The types are dropped before
        it runs, so that a script that ends the agent runs once.
        """
        progress, records = self.progress(), self.state.load(RECORDS, {})
        is_busy = progress["everything"] or progress["stale"] or self.pending
        if is_busy or any("trial" in record for record in records.values()):
            return
        updated = progress.get("updated", [])
        text = (self.state.load("plan") or {}).get("after_update_script")
        if not isinstance(text, str):
            text = ""
        lacks = "The agent does not run after_update_script: its config.toml has no script_signals."
        is_barred = bool(text) and not self.config.script_signals
        self.note_problem("script_signals", lacks if is_barred else "")
        if not text or is_barred:
            self.note_problem("script", "")
        if not updated:
            return
        self.state.save("progress", progress | {"updated": []})
        if not text:
            return
        for kind in dict.fromkeys(
            kind for kind, subject in updated if "failed" not in records.get(subject, {})
        ):
            try:
                script.run(text, kind, self.config, self.state.folder)
            except CheckError as error:
                self.note_problem("script", str(error))
            else:
                self.log(f"after_update_script ended well for {kind}.")
                self.note_problem("script", "")

    def note_problem(self, name: str, what: str) -> None:
        """Keep what fails on this machine, and report all of it when it changes. "" is the end."""
        known = self.state.load("problems", {})
        problems = {each: text for each, text in (known | {name: what}).items() if text}
        if problems == known:
            return
        if what:
            self.log(what)
        self.state.save("problems", problems)
        event = {"type": "agent_error", "what": shown(" ".join(problems.values()))}
        self.state.report(event)

    # --- Reports and signals ---

    def send_reports(self) -> None:
        events = self.state.load("reports", [])
        if not events:
            return
        body = {"schema": SCHEMA, "events": events}
        answer = self.client.ask("POST", "/notify", body=body)
        if answer.status in (401, 403):
            raise LoginNeeded("The server does not accept this device. Run: certctrl-agent login")
        if answer.status >= 300:
            self.log(f"The server refused {len(events)} reports ({answer.status}).")
        self.state.save("reports", [])

    def poll(self, wait: int, stop: Stop | None = None) -> float:
        """Wait for signals, and note what is stale. Return the seconds until the next poll.

        A signal of `stop` ends the wait, but no refresh of tokens.
        """
        begun = time.monotonic()
        cursor = self.progress()["cursor"]
        params = {"limit": SIGNALS, "wait": wait} | ({"cursor": cursor} if cursor else {})
        self.may_wait = False
        options: dict[str, Any] = {"around": stop.idle} if stop else {}
        answer = self.client.ask("GET", "/updates", params=params, seconds=wait + 20, **options)
        self.may_wait = True
        with self.state.lock("work"):
            if answer.status == 200:
                self.note(answer.data)
                return 0.0
            if answer.status == 409:
                self.resync(cursor="")
                return 0.0
        if answer.status in (401, 403):
            raise LoginNeeded("The server does not accept this device. Run: certctrl-agent login")
        if answer.status != 204:
            raise ServerAway(f"The server responded with {answer.status} to a poll.")
        with contextlib.suppress(KeyError, ValueError):
            self.interval = min(3600.0, max(1.0, float(answer.headers["x-poll-interval"])))
        interval = wait if 0 < wait < WAIT else self.interval
        return max(0.0, interval - (time.monotonic() - begun))

    def seconds_to_wait(self, due: float) -> int:
        """Return how long the server may hold a poll.

        After a poll that was not answered, the next one does not wait, because a server with too
        many waiting devices still answers it.
        """
        return int(min(WAIT, due)) if self.may_wait else 0

    def note(self, data: Any) -> None:
        """Store the cursor together with what its signals made stale."""
        if not isinstance(data, dict) or not isinstance(data.get("signals"), list):
            raise ServerAway("The server responded to a poll without signals.")
        progress = self.progress()
        stale, gone = progress["stale"], progress["gone"]
        trusted = set(progress.get("trusted", []))
        planned = [list(subject) for subject in subjects_of(self.state.load("plan"))]
        updated = list(progress.get("updated", []))
        for kind, number in map(read_signal, data["signals"]):
            if kind in self.config.script_signals:
                updated.append([kind, f"cert-{number}" if kind.startswith("cert.") else ""])
            match kind:
                case "install.updated" | "state.resync_required":
                    progress["everything"] = True
                case "cert.updated" | "cert.wrap_ready" if ["cert", number] in planned:
                    stale.append(["cert", number])
                    self.pending.pop(f"certificates/{number}", None)
                case "cert.unassigned" if number:
                    gone.append(["cert", number])
                case "ca.assigned" if number:
                    stale.append(["ca", number])
                    trusted.add(number)
                case "ca.unassigned" if number:
                    gone.append(["ca", number])
                    trusted.discard(number)
        changes = {
            "cursor": str(data.get("cursor", progress["cursor"])),
            "stale": without_repeats(stale),
            "gone": without_repeats(gone),
            "trusted": sorted(trusted),
            "updated": without_repeats(updated),
        }
        self.state.save("progress", progress | changes)

    # --- The loops ---

    def run(self, stop: Stop) -> None:
        """Follow the server until `stop` is set."""
        self.begin()
        if not self.config.challenges:
            self.follow(stop)
            return
        challenges = Challenges(self.state, self.config, self.log, self.now)
        with WebSocket(self.state, challenges, self.log) as self.websocket:
            self.follow(stop)

    def follow(self, stop: Stop) -> None:
        while not stop.is_set():
            try:
                due = self.work()
                if due < SHORT:
                    stop.wait(due)
                    continue
                if self.websocket and self.websocket.is_open:
                    self.hear(self.websocket, min(WAIT, due), stop)
                    self.away.reset()
                    continue
                pause = self.poll(self.seconds_to_wait(due), stop)
                self.away.reset()
                stop.wait(min(pause, due))
            except Stopped:
                return
            except ServerAway as away:
                seconds = self.away.failed(away.retry_after)
                self.log(f"{away} Trying again in {seconds:.0f} s.")
                self.rest(stop, seconds)
            except (AgentError, OSError) as error:
                self.log(str(error))
                self.rest(stop, LONGEST_PAUSE)

    def hear(self, websocket: WebSocket, seconds: float, stop: Stop) -> None:
        """Wait for signals on the WebSocket, note what is stale, and confirm them."""
        with stop.idle():
            arrived = websocket.signals(seconds)
        if not arrived:
            return
        with self.state.lock("work"):
            signals = [each.signal for each in arrived]
            self.note({"cursor": arrived[-1].cursor, "signals": signals})
        for each in arrived:
            websocket.ack(each)

    def rest(self, stop: Event, seconds: float) -> None:
        """Install from what is here while the server is not asked."""
        end = time.monotonic() + seconds
        while not stop.is_set() and (remaining := end - time.monotonic()) > 0:
            due = 60.0
            try:
                with self.state.lock("work"):
                    due = self.advance()
            except (AgentError, OSError) as error:
                self.log(str(error))
            stop.wait(min(remaining, max(due, 0.2)))

    def once(self, stop: Event, seconds: float) -> None:
        """Work until there is nothing left. Stop after `seconds` if keys or servers are not ready.

        Raise ServerAway when the server does not respond.
        """
        self.begin()
        end = time.monotonic() + seconds
        while (due := self.work()) < end - time.monotonic() and due < DAY / 24:
            stop.wait(due)


def read_signal(signal: Any) -> tuple[str, int]:
    """Return the type of a signal, and the id of its certificate or CA, or 0."""
    if not isinstance(signal, dict) or not isinstance(signal.get("ref"), dict):
        return "", 0
    kind = str(signal.get("type"))
    number = signal["ref"].get("ca_id" if kind.startswith("ca.") else "cert_id")
    return kind, number if type(number) is int else 0


def without_repeats(subjects: list[list[Any]]) -> list[list[Any]]:
    return [list(subject) for subject in dict.fromkeys(map(tuple, subjects))]
