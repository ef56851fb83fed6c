"""The agent of a certctrl server. It imports nothing of the server."""

__version__ = "0.1.0"
