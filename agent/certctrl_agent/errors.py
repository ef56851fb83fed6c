"""The errors of the agent. Their texts are for people, and have no secret in them."""


class AgentError(Exception):
    """An error for people: its text says what is wrong, and what to do."""


class ServerAway(AgentError):
    """The server did not respond, or asks for a pause. `retry_after` is in seconds."""

    def __init__(self, what: str, retry_after: float = 0) -> None:
        super().__init__(what)
        self.retry_after = retry_after


class NotReady(ServerAway):
    """The server does not have the key for this device yet."""


class LoginNeeded(AgentError):
    """The tokens of the device do not open the server any more."""


class RefusedByServer(AgentError):
    """The server refused a request. Another try would be refused too."""

    def __init__(self, what: str, status: int, code: object = None) -> None:
        super().__init__(what)
        self.status = status
        self.code = code


class PlanError(AgentError):
    """The install plan has something that this agent does not do."""


class MaterialError(AgentError):
    """A key and its certificate do not belong together, or cannot be opened."""


class InstallError(AgentError):
    """Files cannot be installed, and nothing was changed."""


class CheckError(AgentError):
    """A test command, a reload command or a handshake failed."""
