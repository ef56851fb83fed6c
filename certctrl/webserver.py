"""The web process: uvicorn, with the options for `deploy/run`, the embedded server and the tests.

`python -m certctrl.webserver` listens on LISTEN and PORT. Further arguments go to uvicorn and win.
"""

import os
import sys

import uvicorn
from django.conf import settings
from django.core.exceptions import ImproperlyConfigured

from certctrl import listening


def arguments() -> list[str]:
    """Return the arguments for uvicorn, from the settings."""
    return [
        "certctrl.asgi:application",
        *("--host", listening.host_of(settings.LISTEN)),
        *("--port", os.environ.get("PORT", "8080")),
        *("--http", "certctrl.connections:PatientProtocol"),
        *("--ws", "none"),
        *("--timeout-keep-alive", str(settings.KEEP_ALIVE)),
        *("--timeout-graceful-shutdown", "5"),
        "--no-access-log",
        *([] if settings.BEHIND_PROXY else ["--no-proxy-headers"]),
    ]


def main() -> None:
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
    try:
        given = arguments()
    except ImproperlyConfigured as exc:
        raise SystemExit(str(exc)) from None
    uvicorn.main([*given, *sys.argv[1:]])


if __name__ == "__main__":
    main()
