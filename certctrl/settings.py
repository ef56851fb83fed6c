"""Every setting of the server, read from the environment. `.env.example` documents each one.

A secret may be in a file. `SECRET_KEY_FILE=/run/secrets/key` gives the value of `SECRET_KEY`.
"""

import re
from pathlib import Path
from typing import Any

from django.core.exceptions import ImproperlyConfigured

from certctrl import configfile, datastores, listening
from certctrl.environment import Environment, read_env

BASE_DIR = Path(__file__).resolve().parent.parent

read_env(BASE_DIR / ".env")
env = Environment()

DATA_DIR = Path(env.str("DATA_DIR", str(BASE_DIR / ".data"))).absolute()

SECRET_KEY = env.str("SECRET_KEY")
MASTER_KEYS = env.str("MASTER_KEYS", "")
MASTER_KEYS_PATH = env.str("MASTER_KEYS_PATH", "")
MASTER_KEYS_ELSEWHERE = env.list("MASTER_KEYS_ELSEWHERE", default=[])
MASTER_KEY_CURRENT = env.str("MASTER_KEY_CURRENT", "")
PKCS11_MODULE = env.str("PKCS11_MODULE", "")
PKCS11_PIN = env.str("PKCS11_PIN", "")
VAULT_ADDR = env.str("VAULT_ADDR", "")
VAULT_TOKEN = env.str("VAULT_TOKEN", "")
if not MASTER_KEYS and not MASTER_KEYS_PATH and not MASTER_KEYS_ELSEWHERE:
    raise ImproperlyConfigured(
        "Set MASTER_KEYS (id:base64 of 32 bytes), MASTER_KEYS_PATH (a file of mode 0600) or "
        "MASTER_KEYS_ELSEWHERE (a key in an HSM, in AWS KMS or in Vault)."
    )

DEBUG = env.bool("DEBUG", False)
LISTEN = env.str("LISTEN", "")
ALLOWED_HOSTS = env.list("ALLOWED_HOSTS", default=listening.allowed_hosts(LISTEN))
TRUSTED_ORIGINS = env.list("TRUSTED_ORIGINS", default=[])
CSRF_TRUSTED_ORIGINS = TRUSTED_ORIGINS
CSRF_FAILURE_VIEW = "dashboard.faults.form_refused"
URL_PREFIX = env.str("URL_PREFIX", "").rstrip("/")
if URL_PREFIX and not re.fullmatch(r"(/[A-Za-z0-9._~-]+)+", URL_PREFIX):
    raise ImproperlyConfigured(
        "URL_PREFIX must be a path of letters, digits and -._~ without a slash at its end, "
        "for example /certctrl."
    )
FORCE_SCRIPT_NAME = URL_PREFIX or None
KEEP_ALIVE = env.int("KEEP_ALIVE", 130)  # seconds; longer than any proxy keeps an idle connection
MAX_CONNECTIONS = env.int("MAX_CONNECTIONS", 500)  # of one web process
MAX_STREAMS = env.int("MAX_STREAMS", 1000)  # pages with live progress, of one web process
DEMO = env.bool("DEMO", False)  # an invented year, without workers and without outward calls

# --- Devices: docs/reference/devices.md ---
DEVICE_POLL_INTERVAL = env.int("DEVICE_POLL_INTERVAL", 30)  # seconds between two polls
# Where agents listen for a CA, which asks port 80 and port 443.
AGENT_HTTP_PORT = env.int("AGENT_HTTP_PORT", 80)
AGENT_TLS_PORT = env.int("AGENT_TLS_PORT", 443)
MAX_DEVICES = env.int("MAX_DEVICES", 4000)  # that wait at one web process

# --- Turns (seconds): docs/architecture.md, "How a turn works" ---
LEASE = env.float("LEASE", 180)
TURN = env.float("TURN", 80)
RESEND = env.float("RESEND", 120)
if LEASE < 2 * TURN:
    raise ImproperlyConfigured("LEASE is shorter than twice TURN. Set it to at least twice TURN.")
CALL_LIMIT = env.float("CALL_LIMIT", 20)


# --- When a CA fails (seconds) ---
FALLBACK_AFTER = env.float("FALLBACK_AFTER", 86400)

# --- How long rows are kept (None: for ever): docs/decisions/0025-history-has-an-end.md ---
# At least the week for which CAs keep an order.
KEEP_ATTEMPTS = env.days("KEEP_ATTEMPTS", 90, least=7)
KEEP_OLD_KEYS = env.days("KEEP_OLD_KEYS", 0, least=0)  # after the certificate has expired
KEEP_NOTICES = env.days("KEEP_NOTICES", 30, least=2)
KEEP_TXT_RECORDS = env.days("KEEP_TXT_RECORDS", 7)
KEEP_RENEWAL_INFOS = env.days("KEEP_RENEWAL_INFOS", 7)
KEEP_REQUEST_KEYS = env.days("KEEP_REQUEST_KEYS", 7)
KEEP_AUDIT_EVENTS = env.days("KEEP_AUDIT_EVENTS", None)

# --- The audit log: docs/reference/audit.md ---
AUDIT_ARCHIVE = env.str("AUDIT_ARCHIVE", str(DATA_DIR / "audit"))
AUDIT_HEADS_TO = env.list("AUDIT_HEADS_TO", default=[])
AUDIT_HEADS_EVERY = env.float("AUDIT_HEADS_EVERY", 86400)  # seconds
if AUDIT_HEADS_EVERY < 60:
    raise ImproperlyConfigured("AUDIT_HEADS_EVERY is shorter than a minute. Set it to 60 or more.")

# --- Backups: docs/guides/backup.md ---
BACKUP_RECIPIENTS = env.list("BACKUP_RECIPIENTS", default=[])

# --- Outgoing requests ---
ALLOW_PRIVATE = env.list("ALLOW_PRIVATE", default=[])
ALLOW_PRIVATE_FOR_TENANTS = env.list("ALLOW_PRIVATE_FOR_TENANTS", default=[])
ACME_CA_BUNDLE = env.str("ACME_CA_BUNDLE", "")
ACME_CAS = env.members("ACME_CAS")
ACME_LOG_LEVEL, ACME_SAVE_REQUESTS = configfile.acme_log(env.str("CERTCTRL_CONFIG", ""))
CLOUDFLARE_API_URL = env.str("CLOUDFLARE_API_URL", "https://api.cloudflare.com/client/v4")
ALIYUN_API_URL = env.str("ALIYUN_API_URL", "https://alidns.aliyuncs.com")
ZEROSSL_API_URL = env.str("ZEROSSL_API_URL", "https://api.zerossl.com")
DNS_API_LIMITS = env.members("DNS_API_LIMITS")
DNS_RESOLVERS = env.list("DNS_RESOLVERS", default=[])
DNS_PORT = env.int("DNS_PORT", 53)

# --- CNAME delegation ---
SERVICE_ZONE = env.str("SERVICE_ZONE", "").strip().strip(".").lower()
SERVICE_DNS_CREDENTIAL = env.int("SERVICE_DNS_CREDENTIAL", 0)
if bool(SERVICE_ZONE) != bool(SERVICE_DNS_CREDENTIAL):
    raise ImproperlyConfigured(
        "SERVICE_ZONE and SERVICE_DNS_CREDENTIAL (the id of the zone's DNS credential) belong "
        "together. Set both, or neither."
    )

# --- Django ---
INSTALLED_APPS = [
    "unfold",
    "django.contrib.admin",
    "django.contrib.auth",
    "django.contrib.contenttypes",
    "django.contrib.messages",
    "whitenoise.runserver_nostatic",
    "django.contrib.staticfiles",
    "rest_framework",
    "drf_spectacular",
    "drf_spectacular_sidecar",
    "certctrl",
    "standalone",
    "backups",
    "accounts",
    "keystore",
    "dnsproviders",
    "notices",
    "devices",
    "signin",
    "authorities",
    "issuance",
    "dashboard",
    "django_htmx",
]
MIDDLEWARE = [
    "certctrl.log.RequestContext",
    "certctrl.language.RequestLanguage",
    "certctrl.prefix.Prefix",
    "certctrl.cors.CORS",
    "certctrl.policy.AdminPolicy",
    "django.middleware.security.SecurityMiddleware",
    "whitenoise.middleware.WhiteNoiseMiddleware",
    "accounts.browsers.KnownBrowser",
    "django.middleware.csrf.CsrfViewMiddleware",  # so that its cookie comes after the session's
    "django.contrib.sessions.middleware.SessionMiddleware",
    "django.middleware.common.CommonMiddleware",
    "django.contrib.auth.middleware.AuthenticationMiddleware",
    "accounts.audit.CurrentRequest",
    "accounts.sessions.NoteUse",
    "django.contrib.messages.middleware.MessageMiddleware",
    "django.middleware.clickjacking.XFrameOptionsMiddleware",
]
ROOT_URLCONF = "certctrl.urls"
ASGI_APPLICATION = "certctrl.asgi.application"
TEMPLATES = [
    {
        "BACKEND": "django.template.backends.django.DjangoTemplates",
        "APP_DIRS": True,
        "OPTIONS": {
            "context_processors": [
                "django.template.context_processors.request",
                "django.contrib.auth.context_processors.auth",
                "django.contrib.messages.context_processors.messages",
            ]
        },
    }
]
AUTH_USER_MODEL = "accounts.User"
AUTHENTICATION_BACKENDS = ["accounts.sessions.Users"]
PASSWORD_HASHERS = [
    "accounts.passwords.Argon2",
    "django.contrib.auth.hashers.PBKDF2PasswordHasher",
]
AUTH_PASSWORD_VALIDATORS = [
    {
        "NAME": "accounts.passwords.LongEnough",
        "OPTIONS": {"min_length": 12},
    },
    {"NAME": "django.contrib.auth.password_validation.CommonPasswordValidator"},
    {"NAME": "accounts.passwords.FourKinds"},
]
DEFAULT_AUTO_FIELD = "django.db.models.BigAutoField"
TIME_ZONE = "UTC"
USE_TZ = True
USE_I18N = True  # certctrl.language chooses the language of a request
LANGUAGE_CODE = "en"
LANGUAGES = [("en", "English"), ("zh-hans", "简体中文")]
# The server's sentences, the pages and the mails with codes. They come before the admin's catalog,
# which has other words for "Key" and "Action".
LOCALE_PATHS = [
    BASE_DIR / "dashboard/locale",
    BASE_DIR / "signin/locale",
    BASE_DIR / "locale",
]
APPEND_SLASH = False
STATIC_URL = f"{URL_PREFIX}/static/"
STATIC_ROOT = DATA_DIR / "static"
WHITENOISE_USE_FINDERS = True
WHITENOISE_AUTOREFRESH = False
DATA_UPLOAD_MAX_MEMORY_SIZE = 1024 * 1024  # larger request bodies are refused

SESSION_ENGINE = "accounts.sessions"  # the table holds only hashes of session ids
SESSION_COOKIE_NAME = "cjj365"
SESSION_COOKIE_HTTPONLY = True
SESSION_COOKIE_SAMESITE = "Lax"
SESSION_COOKIE_SECURE = env.bool("SESSION_COOKIE_SECURE", False)
CSRF_COOKIE_SECURE = SESSION_COOKIE_SECURE
SESSION_COOKIE_PATH = CSRF_COOKIE_PATH = LANGUAGE_COOKIE_PATH = URL_PREFIX or "/"
LANGUAGE_COOKIE_NAME = "language"
LANGUAGE_COOKIE_AGE = 365 * 86400
LANGUAGE_COOKIE_HTTPONLY = True
LANGUAGE_COOKIE_SAMESITE = "Lax"
LANGUAGE_COOKIE_SECURE = SESSION_COOKIE_SECURE
EXPORT_LOGIN_AGE = env.int("EXPORT_LOGIN_AGE", 900)  # seconds since the login
BEHIND_PROXY = env.bool("BEHIND_PROXY", False)
if BEHIND_PROXY:
    SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")

# --- Database ---
WORKER_POOL = env.str("WORKER_POOL", "threads")
WORKER_CONCURRENCY = env.int("WORKER_CONCURRENCY", 8)
SQLITE_OPTIONS: dict[str, Any] = {
    # Without all three, concurrent writers get "database is locked".
    "transaction_mode": "IMMEDIATE",
    "timeout": 20,
    "init_command": (
        "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; PRAGMA busy_timeout=20000;"
    ),
}


PREPARED_STATEMENTS = env.bool("PREPARED_STATEMENTS", default=True)
PREPARED_AFTER = 2  # executions of a statement on one connection


def postgres_options() -> dict[str, Any]:
    """Return Django's OPTIONS: prepared statements, and the pool for threads.

    Celery closes connections after each task. Prefork has no pool, because it is slower there.
    """
    options: dict[str, Any] = {}
    if PREPARED_STATEMENTS:  # planning costs PostgreSQL more than executing
        options |= {"server_side_binding": True, "prepare_threshold": PREPARED_AFTER}
    if WORKER_POOL == "threads":
        options["pool"] = {"min_size": 0, "max_size": WORKER_CONCURRENCY + 4, "timeout": 30}
    return options


def database() -> dict[str, Any]:
    config = datastores.database(env, DATA_DIR)
    if config["ENGINE"] == datastores.SQLITE:
        return config | {"OPTIONS": SQLITE_OPTIONS}
    return config | {
        "OPTIONS": config.get("OPTIONS", {}) | postgres_options(),
        "CONN_HEALTH_CHECKS": True,
    }


DATABASES = {"default": database()}

# --- Redis: Celery's broker and the cache. Data from Redis is never run as code ---
REDIS = datastores.redis(env)
CACHES = {"default": REDIS.cache}

CELERY_BROKER_URL = REDIS.broker_url
CELERY_BROKER_USE_SSL = REDIS.tls or False
CELERY_ACCEPT_CONTENT = ["json"]
CELERY_TASK_SERIALIZER = "json"
CELERY_WORKER_ENABLE_REMOTE_CONTROL = False
# Fail at once when the broker is away.
CELERY_BROKER_TRANSPORT_OPTIONS = {
    "socket_timeout": 5,
    "socket_connect_timeout": 5,
    "max_retries": 1,
    "interval_start": 0,
    # Copies of unacknowledged messages would cost six commands of Redis for each message. The sweep
    # sends a lost message again.
    "ack_emulation": False,
}
CELERY_BROKER_CONNECTION_RETRY_ON_STARTUP = True
CELERY_BROKER_CONNECTION_MAX_RETRIES = None
CELERY_TASK_PUBLISH_RETRY = False  # the sweep sends again
CELERY_TASK_IGNORE_RESULT = True
CELERY_TASK_INHERIT_PARENT_PRIORITY = True  # a later step keeps the place of its attempt
CELERY_TASK_ACKS_LATE = False  # the lease recovers lost work, not the broker
CELERY_WORKER_PREFETCH_MULTIPLIER = 1
CELERY_WORKER_HIJACK_ROOT_LOGGER = False
CELERY_WORKER_REDIRECT_STDOUTS = False
CELERY_TIMEZONE = "UTC"
# The process `clock` reads this queue alone. A shared worker delayed the tick by seconds.
SCHEDULE_QUEUE = "sweep"
CELERY_TASK_ROUTES = {"issuance.sweep": {"queue": SCHEDULE_QUEUE}}
SCAN_EVERY = env.float("SCAN_EVERY", 600)  # seconds between two scans for renewals
CELERY_BEAT_SCHEDULER = "certctrl.beatclock:BeatScheduler"
CELERY_BEAT_SCHEDULE = {
    "sweep": {
        "task": "issuance.sweep",
        "schedule": 1.0,
        "args": (1.0,),
        "options": {"expires": 5},
    },
    "scan renewals": {
        "task": "issuance.scan_renewals",
        "schedule": SCAN_EVERY,
        "options": {"expires": SCAN_EVERY},
    },
    "advance drills": {
        "task": "issuance.advance_drills",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
    "warn of expiry": {
        "task": "issuance.warn_expiry",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "revoke superseded": {
        "task": "issuance.revoke_superseded",
        "schedule": 3600.0,
        "options": {"expires": 3600},
    },
    "follow devices": {
        "task": "issuance.follow_devices",
        "schedule": 300.0,
        "options": {"expires": 300},
    },
    "prune": {"task": "issuance.prune", "schedule": 3600.0, "options": {"expires": 3600}},
    "seal audit events": {
        "task": "accounts.seal_audit_events",
        "schedule": 60.0,
        "options": {"expires": 60},
    },
}
if AUDIT_HEADS_TO:
    CELERY_BEAT_SCHEDULE["send audit head"] = {
        "task": "notices.send_audit_head",
        "schedule": 60.0,
        "options": {"expires": 60},
    }

# --- Notices ---
EMAIL_HOST = env.str("EMAIL_HOST", "")
EMAIL_PORT = env.int("EMAIL_PORT", 25)
EMAIL_HOST_USER = env.str("EMAIL_HOST_USER", "")
EMAIL_HOST_PASSWORD = env.str("EMAIL_HOST_PASSWORD", "")
EMAIL_EHLO = env.str("EMAIL_EHLO", "")
EMAIL_USE_TLS = env.bool("EMAIL_USE_TLS", False)
EMAIL_USE_SSL = env.bool("EMAIL_USE_SSL", False)
# Seconds for each exchange with the mail server. One mail takes eight exchanges.
EMAIL_TIMEOUT = min(env.float("EMAIL_TIMEOUT", 10), TURN)
SMTP_BACKEND = "django.core.mail.backends.smtp.EmailBackend"
EMAIL_BACKEND = env.str("EMAIL_BACKEND", SMTP_BACKEND)
ANYMAIL = env.members("ANYMAIL")
MAILS_A_DAY = env.int("MAILS_A_DAY", 100)  # to one owner; further mails go into a digest
NOTICE_FROM = env.str("NOTICE_FROM", "")
MAIL_IS_SET_UP = bool(EMAIL_HOST) or EMAIL_BACKEND != SMTP_BACKEND
if MAIL_IS_SET_UP and not NOTICE_FROM:
    raise ImproperlyConfigured(
        "Set NOTICE_FROM to the sender address of notices, for example certctrl@example.com."
    )
if EMAIL_USE_TLS and EMAIL_USE_SSL:
    raise ImproperlyConfigured(
        "Set EMAIL_USE_TLS (STARTTLS) or EMAIL_USE_SSL (TLS from the start), not both."
    )

# --- Registration: docs/guides/accounts.md ---
REGISTRATION = env.str("REGISTRATION", "closed")
if REGISTRATION not in ("open", "invitation", "closed"):
    raise ImproperlyConfigured("REGISTRATION must be open, invitation or closed.")
if REGISTRATION != "closed" and not MAIL_IS_SET_UP:
    raise ImproperlyConfigured(
        "Registration mails codes. Set EMAIL_HOST and NOTICE_FROM, or set REGISTRATION to closed."
    )

# --- OpenID Connect: docs/guides/accounts.md ---
OIDC_ISSUER = env.str("OIDC_ISSUER", "")
OIDC_CLIENT_ID = env.str("OIDC_CLIENT_ID", "")
OIDC_CLIENT_SECRET = env.str("OIDC_CLIENT_SECRET", "")
OIDC_NAME = env.str("OIDC_NAME", "OpenID Connect")
OIDC_SCOPES = env.str("OIDC_SCOPES", "openid email profile")
OIDC_GROUPS_CLAIM = env.str("OIDC_GROUPS_CLAIM", "groups")
OIDC_ADMIN_GROUPS = env.list("OIDC_ADMIN_GROUPS", default=[])
OIDC_USER_GROUPS = env.list("OIDC_USER_GROUPS", default=[])
OIDC_CREATE_USERS = env.bool("OIDC_CREATE_USERS", False)
OIDC_LINK_BY_EMAIL = env.bool("OIDC_LINK_BY_EMAIL", False)
if OIDC_ISSUER and not (OIDC_CLIENT_ID and OIDC_CLIENT_SECRET):
    raise ImproperlyConfigured("OIDC_ISSUER needs OIDC_CLIENT_ID and OIDC_CLIENT_SECRET.")
if OIDC_ISSUER and not re.match(r"https://|http://(localhost|127\.0\.0\.1)(:|/|$)", OIDC_ISSUER):
    raise ImproperlyConfigured("OIDC_ISSUER must be an https URL.")

# --- Deployments ---
SERVE_WITHIN = env.int("SERVE_WITHIN", 86400)  # seconds until a new version must be served

# --- Quotas of one owner ---
QUOTAS = env.json("QUOTAS", default={})

# --- API ---
REST_FRAMEWORK = {
    "DEFAULT_RENDERER_CLASSES": ["certctrl.formats.DataRenderer"],
    "DEFAULT_PARSER_CLASSES": ["certctrl.formats.JSONParser"],
    "DEFAULT_CONTENT_NEGOTIATION_CLASS": "certctrl.formats.LenientNegotiation",
    "DEFAULT_AUTHENTICATION_CLASSES": [
        "accounts.authentication.ApiKeyAuthentication",
        "accounts.authentication.JSONSessionAuthentication",
    ],
    "DEFAULT_PERMISSION_CLASSES": ["accounts.permissions.Allowed"],
    "DEFAULT_SCHEMA_CLASS": "drf_spectacular.openapi.AutoSchema",
    "DEFAULT_PAGINATION_CLASS": "certctrl.formats.ListPagination",
    "EXCEPTION_HANDLER": "certctrl.errorshape.exception_handler",
    "URL_FORMAT_OVERRIDE": None,
}
SPECTACULAR_SETTINGS = {
    "TITLE": "certctrl",
    "VERSION": "1",
    "SERVE_INCLUDE_SCHEMA": False,
    **({"SERVERS": [{"url": URL_PREFIX}]} if URL_PREFIX else {}),
    "SWAGGER_UI_DIST": "SIDECAR",
    "SWAGGER_UI_FAVICON_HREF": "SIDECAR",
    "REDOC_DIST": "SIDECAR",
    "ENUM_NAME_OVERRIDES": {
        "ChangeActionEnum": ["verify_domain"],
        "CreateActionEnum": ["create"],
        "DrillStatusEnum": ["running", "stopped", "ended"],
        "DeviceStatusEnum": "devices.models.Device.Status",
        "InstallItemTypeEnum": ["copy", "exec", "import_ca"],
        "PrivateCAStatusEnum": "authorities.models.PrivateCA.Status",
        "StateEnum": "issuance.models.Issuance.State",
        "DeliveryStateEnum": "notices.models.Delivery.State",
        "NoticeKindEnum": "notices.models.Notice.Kind",
        "ChoosableNoticeKindEnum": "notices.models.Notice.CHOOSABLE",
    },
    "POSTPROCESSING_HOOKS": [
        "drf_spectacular.hooks.postprocess_schema_enums",
        "certctrl.schema.envelope",
    ],
}
UNFOLD = {
    "SITE_TITLE": "certctrl",
    "SITE_HEADER": "certctrl",
    "SITE_URL": f"{URL_PREFIX}/",
}

# --- Logs: JSON lines ---
LOG_LEVEL = env.str("LOG_LEVEL", "INFO")
LOGGING_CONFIG = None
