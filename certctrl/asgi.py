import os

from django.core.asgi import get_asgi_application

from certctrl import log

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "certctrl.settings")
log.configure()  # uvicorn has configured its own by now, for people and not for machines
application = get_asgi_application()
