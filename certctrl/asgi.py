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

log.configure()  # uvicorn has set its own log format by now; set JSON lines again
application = BodyLimit(django_application, is_known)
