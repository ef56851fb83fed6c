"""One parent for all processes of the embedded server: starts them, starts a dead one again, stops them in order.

A child never outlives its parent: Linux kills it (PR_SET_PDEATHSIG) in the moment the supervisor is gone, even by
SIGKILL. That signal follows the *thread* that forked, so everything here belongs to the main thread.
"""

import ctypes
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType

from certctrl import clock

PR_SET_PDEATHSIG = 1
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a dead child starts again; doubles
SETTLED = 60.0  # a child that lived so long starts again with the first pause
AGAIN = 1.0  # signals closer together are one request: `timeout` and some terminals send two
LOG_LIMIT = 10 * 1024 * 1024  # bytes; a longer log is moved aside when its child starts

# Loaded before any fork: a child between fork and exec must not take the loader's locks.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Stopped(Exception):
    """Somebody asked the supervisor to stop (SIGTERM, SIGINT or SIGHUP)."""


@dataclass
class Child:
    """A process to keep alive.

    `patience`: seconds between SIGTERM and SIGKILL. `log`: where its output goes. `folder`: where it runs.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str] | None = None
    log: Path | None = None
    folder: Path | None = None
    patience: float = 5.0
    process: subprocess.Popen[bytes] | None = None
    started_at: float = 0.0
    due_at: float | None = None
    pause: float = field(default=FIRST_PAUSE)

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def next_pause(self, now: float) -> float:
        """Seconds until it may start again, longer each time it dies young."""
        if now - self.started_at >= SETTLED:
            self.pause = FIRST_PAUSE
        pause, self.pause = self.pause, min(self.pause * 2, LONGEST_PAUSE)
        return pause


class Supervisor:
    """Use as a context: leaving it stops every child, the last one started first.

    `say` tells people what happened, one sentence each. `tend()` must be called often: it is what starts a dead child
    again, and it raises Stopped when a signal asked for the end.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self.say = say
        self.children: list[Child] = []
        self.asked_to_stop = 0
        self._asked_at = -AGAIN
        self._read, self._write = socket.socketpair()
        self._read.setblocking(False)
        self._write.setblocking(False)
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Supervisor":
        self._wakeup_before = signal.set_wakeup_fd(self._write.fileno(), warn_on_full_buffer=False)
        asks = [signal.SIGTERM, signal.SIGINT]
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # as nohup leaves it
            asks.append(signal.SIGHUP)
        for number in asks:
            self._before[number] = signal.signal(number, self._ask_to_stop)
        # A handler that does nothing: without one the death of a child would not write to the wakeup socket.
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, lambda number, frame: None)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        tb: TracebackType | None,
    ) -> None:
        try:
            self.stop()
        finally:
            signal.set_wakeup_fd(self._wakeup_before)
            for number, handler in self._before.items():
                signal.signal(number, handler)  # type: ignore[arg-type]
            self._read.close()
            self._write.close()

    def _ask_to_stop(self, number: int, frame: FrameType | None) -> None:
        if clock.monotonic() - self._asked_at >= AGAIN:
            self.asked_to_stop, self._asked_at = self.asked_to_stop + 1, clock.monotonic()

    def start(self, child: Child) -> None:
        """Start a child and keep it alive from now on."""
        self.children.append(child)
        self._spawn(child)

    def tend(self, seconds: float) -> None:
        """Look after the children for so long. Raises Stopped when asked to stop."""
        end = clock.monotonic() + seconds
        while True:
            self._care()
            if self.asked_to_stop:
                raise Stopped
            left = end - clock.monotonic()
            if left <= 0:
                return
            self._rest(min(left, self._next_start()))

    def wait_for(self, check: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
        """Tend until the check says yes; False when it did not within so many seconds."""
        end = clock.monotonic() + seconds
        while not check():
            if clock.monotonic() > end:
                return False
            self.tend(every)
        return True

    def run(self) -> None:
        """Tend until somebody asks to stop."""
        while True:
            self.tend(LONGEST_PAUSE)

    def stop(self) -> None:
        """SIGTERM in the reverse order of starting, one child after the other; SIGKILL when patience ends.

        Asking a second time ends the patience with all of them.
        """
        enough = self.asked_to_stop + 1
        while self.children:
            child = self.children.pop()
            if child.alive():
                self._end(child, enough)
            self._kill_group(child)

    def _end(self, child: Child, enough: int) -> None:
        assert child.process
        self.say(f"Stopping {child.name}.")
        child.process.terminate()
        end = clock.monotonic() + child.patience
        while (
            child.alive() and self.asked_to_stop < enough and (left := end - clock.monotonic()) > 0
        ):
            self._rest(left)
        if child.alive():
            self.say(f"{child.name} did not stop in time and is killed.")

    def _kill_group(self, child: Child) -> None:
        """Whatever is left of the child and of the processes that it started."""
        if child.process is None:
            return
        with suppress(
            ProcessLookupError, PermissionError
        ):  # nobody is left; macOS says EPERM for a group of zombies
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()

    def _care(self) -> None:
        """Notice the dead, start those whose pause is over."""
        now = clock.monotonic()
        for child in self.children:
            if child.due_at is not None and child.due_at <= now:
                self._start_again(child, now)
            elif child.due_at is None and not child.alive():
                self._mourn(child, now)

    def _start_again(self, child: Child, now: float) -> None:
        try:
            self._spawn(child)
        except OSError as error:
            pause = child.next_pause(now)
            child.due_at = now + pause
            self.say(
                f"{child.name} cannot be started ({error.strerror}); the next attempt is in {pause:g} s."
            )

    def _mourn(self, child: Child, now: float) -> None:
        assert child.process
        self._kill_group(child)
        pause = child.next_pause(now)
        child.due_at = now + pause
        where = f" Its log: {child.log}" if child.log else ""
        self.say(
            f"{child.name} {ending(child.process.returncode)}; it starts again in {pause:g} s.{where}"
        )

    def _next_start(self) -> float:
        """Seconds until a child is due to start again; infinite when none is."""
        due = [child.due_at for child in self.children if child.due_at is not None]
        return max(0.0, min(due, default=float("inf")) - clock.monotonic())

    def _rest(self, seconds: float) -> None:
        """Until a signal comes (a child died, or someone wants us to stop) or the time is over."""
        ready, _, _ = select.select([self._read], [], [], seconds)
        if ready:
            self._read.recv(4096)

    def _spawn(self, child: Child) -> None:
        child.due_at, child.started_at = None, clock.monotonic()
        output = open_log(child.log) if child.log else None
        try:
            child.process = subprocess.Popen(  # noqa: S603 - our own command lines
                child.command,
                env=child.environment,
                cwd=child.folder,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT if output else None,
                start_new_session=True,
                preexec_fn=bound_to(os.getpid()),
            )
        finally:
            if output is not None:
                os.close(output)


def bound_to(parent: int) -> Callable[[], None]:
    """What a child does before exec: ask to be killed with its parent, and leave when that is gone already."""

    def preexec() -> None:
        if LIBC is not None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return preexec


def open_log(path: Path) -> int:
    """A descriptor that appends to the log, readable by its owner only."""
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".old"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def ending(returncode: int) -> str:
    """How a process ended, in words."""
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with {returncode}"
