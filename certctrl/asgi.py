import os
from typing import Any

import django

from certctrl.environment import refusing_in_a_sentence
from certctrl.onethread import OneThread

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
with refusing_in_a_sentence():
    django.setup(set_prefix=False)
    django_application: Any = OneThread()

# These imports need Django's apps to be loaded.
from accounts.authentication import is_known
from certctrl import log
from certctrl.bodylimit import BodyLimit
from devices import longpoll, websocket

log.configure()  # uvicorn has set its own log format by now; set JSON lines again
http_application = BodyLimit(django_application, is_known)


async def application(scope: Any, receive: Any, send: Any) -> None:
    if scope["type"] == "websocket":
        chosen: Any = websocket.application
    elif scope["type"] == "http" and longpoll.waits(scope):
        chosen = longpoll.application
    else:
        chosen = http_application
    await chosen(scope, receive, send)
