"""One parent for all processes of the embedded server.

It starts them, restarts a dead one, and stops them in order. A child never outlives its parent,
because Linux kills it when the supervisor dies (PR_SET_PDEATHSIG), even by SIGKILL. That signal
follows the *thread* that forked. So all of this must run in the main thread.
"""

import ctypes
import gc
import multiprocessing
import os
import runpy
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
PR_SET_NAME = 15
M_ARENA_MAX = -8  # mallopt(3): pools of memory in a process; each may keep some megabytes
# Seconds before a dead child is restarted; each pause is twice the one before.
FIRST_PAUSE = 0.5
LONGEST_PAUSE = 30.0
SETTLED = 60.0  # seconds after which a child restarts with the first pause
# Seconds. Closer signals count as one, because `timeout` and some terminals send two.
AGAIN = 1.0
LOG_LIMIT = 10 * 1024 * 1024  # bytes; a longer log is renamed when its child starts

# Loaded before any fork, because a child must not take the loader's locks between fork and exec.
LIBC = ctypes.CDLL(None) if sys.platform == "linux" else None


FORK = multiprocessing.get_context("fork") if sys.platform == "linux" else None


class Stopped(Exception):
    """A signal asked the supervisor to stop (SIGTERM, SIGINT or SIGHUP)."""


@dataclass
class Child:
    """A process to keep alive.

    `patience` is the time between SIGTERM and SIGKILL, in seconds. `log` is the file for its
    output. `folder` is its working directory.

    `forked` is for a command `python -m MODULE ...` of our own. On Linux it is a fork of the
    supervisor, which has imported the modules already. So all such children share their memory.
    """

    name: str
    command: list[str]
    environment: Mapping[str, str] | None = None
    log: Path | None = None
    folder: Path | None = None
    patience: float = 5.0
    forked: bool = False
    process: "subprocess.Popen[bytes] | Fork | None" = None
    started_at: float = 0.0
    due_at: float | None = None
    pause: float = field(default=FIRST_PAUSE)

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def next_pause(self, now: float) -> float:
        """Return the seconds until the child may restart. They grow while it dies early."""
        if now - self.started_at >= SETTLED:
            self.pause = FIRST_PAUSE
        pause = self.pause
        self.pause = min(self.pause * 2, LONGEST_PAUSE)
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
            self.asked_to_stop += 1
            self._asked_at = clock.monotonic()

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
                f"{child.name} cannot be started ({error.strerror}). "
                f"The next try is in {pause:g} s."
            )

    def _mourn(self, child: Child, now: float) -> None:
        assert child.process
        self._kill_group(child)
        pause = child.next_pause(now)
        child.due_at = now + pause
        where = f" Its log: {child.log}" if child.log else ""
        self.say(
            f"{child.name} {ending(child.process.returncode)}. "
            f"It starts again in {pause:g} s.{where}"
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
        child.due_at = None
        child.started_at = clock.monotonic()
        output = open_log(child.log) if child.log else None
        try:
            if child.forked and FORK:
                child.process = Fork(child, output)
                return
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


class Fork:
    """A fork of the supervisor that runs the module of a child. It is used like a Popen."""

    def __init__(self, child: Child, output: int | None) -> None:
        assert FORK
        sys.stdout.flush()
        sys.stderr.flush()
        # Collected now, and never again in the fork. A collection would write to every object, and
        # a page that is written to is not shared any more.
        gc.collect()
        gc.freeze()
        is_ready, ready = os.pipe()
        arguments = (child, output, os.getpid(), ready)
        self.process = FORK.Process(target=become, args=arguments, name=child.name)
        try:
            self.process.start()
        finally:
            os.close(ready)
        os.read(is_ready, 1)  # until then, the child is in our process group and has our handlers
        os.close(is_ready)
        assert self.process.pid
        self.pid: int = self.process.pid

    @property
    def returncode(self) -> int:
        return self.process.exitcode or 0

    def poll(self) -> int | None:
        return self.process.exitcode

    def terminate(self) -> None:
        self.process.terminate()

    def wait(self) -> None:
        self.process.join()


def become(child: Child, output: int | None, parent: int, ready: int) -> None:
    """Turn this fork of the supervisor into the child. Return when its module ends.

    `ready` is closed when the child has its own process group and takes signals.
    """
    bound_to(parent)()
    os.setsid()
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    if output is not None:
        os.dup2(output, 1)
        os.dup2(output, 2)
    os.close(ready)
    os.closerange(3, os.sysconf("SC_OPEN_MAX"))
    if child.folder:
        os.chdir(child.folder)
    name_process(child.name)
    with suppress(AttributeError):  # the C library is not glibc
        LIBC.mallopt(M_ARENA_MAX, 2)  # type: ignore[union-attr]
    _, _, module, *arguments = child.command
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)


def name_process(name: str) -> None:
    """Show the name of the child in `ps -o comm` and `top` (prctl(2), PR_SET_NAME)."""
    if LIBC is not None:
        LIBC.prctl(PR_SET_NAME, f"certctrl {name}".encode()[:15])


def bound_to(parent: int) -> Callable[[], None]:
    """Return the function that a child runs after the fork.

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
