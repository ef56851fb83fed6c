"""The settings of the tests: known secrets, and no service unless a test starts it."""

import os

os.environ.setdefault("SECRET_KEY", "tests-only-" + "x" * 40)
os.environ.setdefault("MASTER_KEYS", "1:" + "A" * 43 + "=")
os.environ.setdefault("ALLOW_PRIVATE", "127.0.0.0/8,::1,localhost")
os.environ.setdefault("ALLOW_PRIVATE_FOR_TENANTS", "true")

from certctrl.settings import *  # noqa: F403

PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]
CACHES = {"default": {"BACKEND": "tests.fakes.jsonlocmem.JSONLocMemCache"}}
WHITENOISE_AUTOREFRESH = True  # else each test client reads all static files
