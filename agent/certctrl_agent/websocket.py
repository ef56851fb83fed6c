"""The WebSocket of the agent protocol, section 8, in a thread of its own.

The thread answers challenges at once, also while the agent installs something. The signals of the
log wait in a queue for the follower, which stores what they ask for, and then acknowledges them.
"""

import contextlib
import json
import os
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from websockets.exceptions import InvalidStatus, WebSocketException
from websockets.sync.client import ClientConnection, connect

from certctrl_agent.backoff import Backoff
from certctrl_agent.challenges import Challenges
from certctrl_agent.errors import ServerAway
from certctrl_agent.server import USER_AGENT, DeviceClient, reason
from certctrl_agent.state import State

PING_EVERY = 20.0  # seconds
HELLO_SECONDS = 10.0
CLOSE_SECONDS = 2.0
HELLOS = ("hello", "lifecycle.hello")


class Arrived(NamedTuple):
    """A signal of the log, and the connection that brought it. `cursor` is that of the polls."""

    connection: ClientConnection
    id: str
    cursor: str
    signal: Any


class WebSocket:
    """The connection to the server. It is opened again whenever it ends."""

    def __init__(self, state: State, challenges: Challenges, log: Callable[[str], None]) -> None:
        self.state = state
        self.challenges = challenges
        self.log = log
        self.client = DeviceClient(state)
        self.arrived = SimpleQueue[Arrived | None]()  # None says that the connection has ended
        self.backoff = Backoff(1, 120)
        self.stopped = threading.Event()
        self.connection: ClientConnection | None = None
        self.is_open = False
        self.thread = threading.Thread(target=self.run, daemon=True)

    def __enter__(self) -> "WebSocket":
        self.thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stopped.set()
        if connection := self.connection:
            connection.close()
        self.thread.join(CLOSE_SECONDS)

    # --- For the follower ---

    def signals(self, seconds: float) -> list[Arrived]:
        """Return the signals that have arrived. Wait up to `seconds` for the first."""
        with contextlib.suppress(Empty):
            found = [self.arrived.get(timeout=seconds)]
            while True:
                try:
                    found.append(self.arrived.get_nowait())
                except Empty:
                    return [each for each in found if each]
        return []

    def ack(self, arrived: Arrived) -> None:
        """Confirm a signal. If the connection has ended, the server sends the signal again."""
        with contextlib.suppress(WebSocketException, OSError):
            say(arrived.connection, "updates.ack", id=arrived.id, resume_token=arrived.cursor)

    # --- The thread ---

    def run(self) -> None:
        try:
            while not self.stopped.is_set():
                try:
                    self.hold()
                except Exception as error:  # a thread that ends would leave the follower waiting
                    self.ended(error)
                self.rest(self.backoff.failed())
        finally:
            self.challenges.close()

    def ended(self, error: Exception) -> None:
        if not self.stopped.is_set() and (self.is_open or not self.backoff.failures):
            self.log(f"The WebSocket to the server has ended: {reason(error)}. Polling instead.")
        self.is_open = False
        self.arrived.put(None)

    def rest(self, seconds: float) -> None:
        end = time.monotonic() + seconds
        while (remaining := end - time.monotonic()) > 0:
            if self.stopped.wait(min(remaining, PING_EVERY)):
                return
            self.challenges.expire()

    def hold(self) -> None:
        """Connect, and take messages until the connection ends. Raise what ended it."""
        with self.opened() as connection:
            self.connection = connection
            if self.stopped.is_set():
                return
            hello = parsed(connection.recv(HELLO_SECONDS))
            if hello.get("name", hello.get("type")) not in HELLOS:
                raise ServerAway("The server did not say hello.")
            said = hello.get("payload", hello)
            cursor = self.state.load("progress", {}).get("cursor")
            token = {"resume_token": cursor} if cursor else {}
            about = {"connection_id": said.get("connection_id")}
            say(connection, "lifecycle.hello_ack", payload=about, **token)
            self.is_open = True
            self.backoff.reset()
            self.log("The WebSocket to the server is open.")
            for message in self.messages(connection):
                self.take(connection, message)

    def opened(self) -> ClientConnection:
        """Return a new connection. Refresh the tokens once if the server refuses them."""
        token = self.client.tokens()["access_token"]
        try:
            return self.connect(token)
        except InvalidStatus as refusal:
            if refusal.response.status_code not in (401, 403):
                raise
        return self.connect(self.client.refreshed(token))

    def connect(self, token: str) -> ClientConnection:
        server = self.client.server
        device = self.state.device()["id"]
        return connect(
            f"ws{server.origin.removeprefix('http')}/api/websocket/{device}",
            ssl=trusting(server.trusted_cas()) if server.origin.startswith("https:") else None,
            additional_headers={"Authorization": f"Bearer {token}"},
            user_agent_header=USER_AGENT,
            ping_interval=None,  # the protocol has pings of its own
            close_timeout=CLOSE_SECONDS,
            legacy=True,  # so that no redirect gets the token
        )

    def messages(self, connection: ClientConnection) -> Iterator[dict[str, Any]]:
        """Yield the messages of the server. Raise ServerAway if it does not answer a ping."""
        is_asked = False
        while True:
            self.challenges.expire()
            try:
                message = parsed(connection.recv(PING_EVERY))
            except TimeoutError:
                if is_asked:
                    raise ServerAway("The server does not answer on its WebSocket.") from None
                is_asked = True
                ping = {"type": "ping", "ts": int(time.monotonic() * 1000)}
                connection.send(json.dumps(ping))
                continue
            is_asked = False
            yield message

    def take(self, connection: ClientConnection, message: dict[str, Any]) -> None:
        signal = message.get("payload")
        if message.get("name") != "updates.signal" or not isinstance(signal, dict):
            return
        cursor = str(message.get("resume_token"))
        arrived = Arrived(connection, str(message.get("id")), cursor, signal)
        if not str(signal.get("type")).startswith("acme."):
            self.arrived.put(arrived)
        elif self.challenges.take(signal):
            self.ack(arrived)


def trusting(cas: str) -> ssl.SSLContext:
    """Return a context that trusts the CAs of a file or of a folder, as requests does."""
    if os.path.isdir(cas):
        return ssl.create_default_context(capath=cas)
    return ssl.create_default_context(cafile=cas)


def say(connection: ClientConnection, name: str, **members: Any) -> None:
    event = {"type": "event", "name": name, "payload": {}, **members}
    connection.send(json.dumps(event | {"ts_ms": int(time.time() * 1000)}))


def parsed(text: str | bytes) -> dict[str, Any]:
    message = json.loads(text)
    if not isinstance(message, dict):
        raise ServerAway("The server sent a message that is not an object.")
    return message
