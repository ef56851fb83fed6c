import os

from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
django_application = get_asgi_application()

from certctrl.bodylimit import BodyLimit  # noqa: E402  (it needs the settings)

application = BodyLimit(django_application)
