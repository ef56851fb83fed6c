import os
from typing import Any

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
django_application: Any = get_asgi_application()

from accounts.authentication import is_known  # noqa: E402  (these want Django's apps to be there)
from certctrl import log  # noqa: E402
from certctrl.bodylimit import BodyLimit  # noqa: E402

log.configure()  # uvicorn has configured its own by now, for people and not for machines
application = BodyLimit(django_application, is_known)
