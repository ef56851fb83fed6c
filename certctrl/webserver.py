"""The web process: uvicorn, with the options for `deploy/run`, the embedded server and the tests.

`python -m certctrl.webserver` listens on LISTEN and PORT. Further arguments go to uvicorn and win.
"""

import os
import resource
import sys

import uvicorn
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from certctrl import listening

MESSAGE_LIMIT = 64 * 1024  # bytes of one message of a device
MOST_FILES = 65_536


def arguments() -> list[str]:
    """Return the arguments for uvicorn, from the settings."""
    return [
        "certctrl.asgi:application",
        *("--host", listening.host_of(settings.LISTEN)),
        *("--port", os.environ.get("PORT", "8080")),
        *("--http", "certctrl.connections:PatientProtocol"),
        *("--ws", "certctrl.connections:DeviceProtocol"),
        *("--ws-max-size", str(MESSAGE_LIMIT)),
        *("--ws-per-message-deflate", "false"),
        *("--ws-ping-interval", "0"),  # devices send pings of their own
        *("--timeout-keep-alive", str(settings.KEEP_ALIVE)),
        *("--timeout-graceful-shutdown", "5"),
        "--no-access-log",
        *([] if settings.BEHIND_PROXY else ["--no-proxy-headers"]),
    ]


def allow_files() -> None:
    """Raise the limit of open files, because each waiting device has a connection."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = MOST_FILES if most == resource.RLIM_INFINITY else min(most, MOST_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, most))


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
    try:
        given = arguments()
    except ImproperlyConfigured as exc:
        raise SystemExit(str(exc)) from None
    allow_files()
    uvicorn.main([*given, *sys.argv[1:]])


if __name__ == "__main__":
    main()
