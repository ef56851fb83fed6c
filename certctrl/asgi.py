import os
from typing import Any

from django.core.asgi import get_asgi_application

from certctrl.environment import refusing_in_a_sentence

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
with refusing_in_a_sentence():
    django_application: Any = get_asgi_application()

# These imports need Django's apps to be loaded.
from accounts.authentication import is_known
from certctrl import log
from certctrl.bodylimit import BodyLimit

log.configure()  # uvicorn has set its own log format by now; set JSON lines again
application = BodyLimit(django_application, is_known)
