"""One parent for all processes of the embedded server.

It starts them, restarts a dead one, and stops them in order. A child never outlives its parent,
because Linux kills it when the supervisor dies (PR_SET_PDEATHSIG), even by SIGKILL. That signal
follows the *thread* that forked. So all of this must run in the main thread.
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
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds before a dead child is restarted; each one doubles
SETTLED = 60.0  # seconds after which a child restarts with the first pause
# Seconds. Closer signals count as one, because `timeout` and some terminals send two.
AGAIN = 1.0
LOG_LIMIT = 10 * 1024 * 1024  # bytes; a longer log is renamed when its child starts

# Loaded before any fork, because a child must not take the loader's locks between fork and exec.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


class Stopped(Exception):
    """A signal asked the supervisor to stop (SIGTERM, SIGINT or SIGHUP)."""


@dataclass
class Child:
    """A process to keep alive.

    `patience` is the time between SIGTERM and SIGKILL, in seconds. `log` is the file for its
    output. `folder` is its working directory.
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
        """Return the seconds until the child may restart. They grow while it dies early."""
        if now - self.started_at >= SETTLED:
            self.pause = FIRST_PAUSE
        pause, self.pause = self.pause, min(self.pause * 2, LONGEST_PAUSE)
        return pause


class Supervisor:
    """Runs children while its context is open. On exit it stops them, last started first.

    `say` gets one sentence for people about each event. Call `tend()` often. It restarts dead
    children, and raises Stopped after a signal.
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
        if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup sets SIG_IGN
            asks.append(signal.SIGHUP)
        for number in asks:
            self._before[number] = signal.signal(number, self._ask_to_stop)
        # This handler does nothing. Without a handler, SIGCHLD would not write to the wakeup
        # socket.
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
        """Start a child, and keep it alive from now on."""
        self.children.append(child)
        self._spawn(child)

    def tend(self, seconds: float) -> None:
        """Look after the children for `seconds`. Raise Stopped after a signal."""
        end = clock.monotonic() + seconds
        while True:
            self._care()
            if self.asked_to_stop:
                raise Stopped
            left = end - clock.monotonic()
            if left <= 0:
                return
            self._sleep(min(left, self._next_start()))

    def wait_for(self, check: Callable[[], bool], seconds: float, every: float = 0.05) -> bool:
        """Tend until `check` returns true. Return False when `seconds` pass first."""
        end = clock.monotonic() + seconds
        while not check():
            if clock.monotonic() > end:
                return False
            self.tend(every)
        return True

    def run(self) -> None:
        """Tend until a signal asks to stop. Raise Stopped."""
        while True:
            self.tend(LONGEST_PAUSE)

    def stop(self) -> None:
        """Stop the children, last started first: SIGTERM, then SIGKILL after `patience`.

        A second signal kills all children at once.
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
            self._sleep(left)
        if child.alive():
            self.say(f"{child.name} did not stop in time and is killed.")

    def _kill_group(self, child: Child) -> None:
        """Kill the rest of the child's process group."""
        if child.process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            # The group is gone. macOS raises EPERM for a group of zombies.
            os.killpg(child.process.pid, signal.SIGKILL)
        child.process.wait()

    def _care(self) -> None:
        """Notice dead children, and restart those whose pause has ended."""
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
                f"{child.name} cannot be started ({error.strerror}); the next attempt is in "
                f"{pause:g} s."
            )

    def _mourn(self, child: Child, now: float) -> None:
        assert child.process
        self._kill_group(child)
        pause = child.next_pause(now)
        child.due_at = now + pause
        where = f" Its log: {child.log}" if child.log else ""
        self.say(
            f"{child.name} {ending(child.process.returncode)}; it starts again in {pause:g} "
            f"s.{where}"
        )

    def _next_start(self) -> float:
        """Return the seconds until the next restart of a child, or infinity."""
        due = [child.due_at for child in self.children if child.due_at is not None]
        return max(0.0, min(due, default=float("inf")) - clock.monotonic())

    def _sleep(self, seconds: float) -> None:
        """Wait for `seconds`, or until a signal: a child died, or somebody asked to stop."""
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
    """Return the function that a child runs before exec.

    The child asks to be killed with its parent. It ends when the parent is already dead.
    """

    def preexec() -> None:
        if LIBC is not None:
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)

    return preexec


def open_log(path: Path) -> int:
    """Return a descriptor that appends to the log. Only its owner can read the file."""
    if path.exists() and path.stat().st_size > LOG_LIMIT:
        path.replace(path.with_suffix(".old"))
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)


def ending(returncode: int) -> str:
    """Return how a process ended, in words."""
    if returncode < 0:
        return f"was ended by {signal.Signals(-returncode).name}"
    return f"ended with {returncode}"
