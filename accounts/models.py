"""Users (people or teams), their API keys, and the audit log."""

import unicodedata
from datetime import datetime
from typing import Any, ClassVar, Self

from django.conf import settings
from django.contrib.auth.models import AbstractUser, UserManager
from django.contrib.sessions.base_session import AbstractBaseSession
from django.db import models
from django.db.models import Q
from django.db.models.functions import Lower

from accounts.quotas import validate
from certctrl import clock
from certctrl.statements import Parameter


def canonical_email(email: str | None) -> str:
    """Return one form for all spellings of an e-mail address.

    Users are found by this form, and their logins are counted by it.
    """
    return unicodedata.normalize("NFKC", email or "").strip().lower()


class EmailUserManager(UserManager["User"]):
    """Creates and finds users by e-mail address. Case and Unicode spelling do not matter."""

    @classmethod
    def normalize_email(cls, email: str | None) -> str:
        """Return the address as it is stored.

        Compatibility characters, such as full-width letters and ligatures, are replaced (NFKC).
        """
        return super().normalize_email(unicodedata.normalize("NFKC", email or "").strip())

    def named(self, email: str | None) -> models.QuerySet["User"]:
        """Return the user with this address in any spelling, as a queryset of one row or none."""
        return self.filter(email__iexact=canonical_email(email))

    def _create_user(self, email: str, password: str | None, **fields: Any) -> "User":
        user = self.model(email=self.normalize_email(email), **fields)
        user.set_password(password)
        user.save(using=self._db)
        return user

    def create_user(self, email: str, password: str | None = None, **fields: Any) -> "User":  # type: ignore[override]
        return self._create_user(email, password, **fields)

    def create_superuser(self, email: str, password: str | None = None, **fields: Any) -> "User":  # type: ignore[override]
        return self._create_user(
            email, password, **{"is_staff": True, "is_superuser": True} | fields
        )

    def get_by_natural_key(self, username: str | None) -> "User":
        return self.named(username).get()


class User(AbstractUser):
    """A person or a team. The user is the tenant, because every row has a user as its owner."""

    class Kind(models.TextChoices):
        PERSON = "person"
        TEAM = "team"

    username = None  # type: ignore[assignment]
    email = models.EmailField("e-mail address", unique=True)
    name = models.CharField(max_length=64, blank=True)
    country_of_residence = models.CharField(max_length=2, blank=True)
    language = models.CharField(
        max_length=16,
        choices=settings.LANGUAGES,
        default=settings.LANGUAGE_CODE,
        help_text="of the mails to this user",
    )
    kind = models.CharField(max_length=8, choices=Kind, default=Kind.PERSON)
    quotas = models.JSONField(
        default=dict,
        blank=True,
        validators=[validate],
        help_text='limits other than the default, as JSON: {"certificates": 9}; null: no limit',
    )

    USERNAME_FIELD = "email"
    REQUIRED_FIELDS: ClassVar[list[str]] = []
    objects = EmailUserManager()  # type: ignore[misc]

    class Meta:
        constraints = (
            models.UniqueConstraint(
                Lower("email"),
                name="one_user_for_each_email",
                violation_error_message="Another user has this e-mail address. Choose another.",
            ),
        )

    def __str__(self) -> str:
        return self.email


class Session(AbstractBaseSession):
    """A session, stored by `accounts.sessions`. Its key is a hash of the session's id."""

    user = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, null=True, related_name="sessions"
    )
    ip = models.GenericIPAddressField(null=True, help_text="the address of the sign-in")
    agent = models.CharField(max_length=200, blank=True, help_text="the browser or program")
    seen_at = models.DateTimeField()

    @property
    def public_id(self) -> str:
        """Return the name of the session in the API and on pages. It opens nothing."""
        return str(self.session_key)[:16]


class ApiKeyQuerySet(models.QuerySet["ApiKey"]):
    def usable(self, at: datetime | Parameter | None = None) -> Self:
        """Return the keys that are neither revoked nor expired, now or at `at`."""
        return self.filter(revoked_at=None, expires_at__gt=at or clock.now())


class ApiKey(models.Model):
    """A secret for scripts. Only its SHA-256 is stored. The key itself was shown once.

    `permissions` is a list of {"obtype", "obid", "actions"}. `obid` is "*" or the id of one
    object. See `docs/reference/api.md`.
    """

    MARK = "ak_"  # the prefix of every key

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, models.CASCADE, related_name="api_keys")
    name = models.CharField(max_length=64)
    prefix = models.CharField(max_length=16)
    digest = models.CharField(max_length=64, unique=True, editable=False)
    permissions = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField()
    revoked_at = models.DateTimeField(null=True, blank=True)
    last_used_at = models.DateTimeField(null=True, blank=True)

    objects = ApiKeyQuerySet.as_manager()

    class Meta:
        verbose_name = "API key"

    def granted(self, obtype: str, action: str) -> set[str]:
        """Return the ids (or `*`) of the objects of this type on which the key allows `action`."""
        return {
            each["obid"]
            for each in self.permissions
            if each["obtype"] == obtype and action in each["actions"]
        }

    def __str__(self) -> str:
        return f"{self.name} ({self.prefix}…)"


class SavedView(models.Model):
    """A list of certificates that a person named: the filters, as in the address of the page."""

    MOST = 50  # of one owner

    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.CASCADE, related_name="saved_views", db_index=False
    )
    name = models.CharField(max_length=64)
    query = models.CharField(max_length=1000)
    created_at = models.DateTimeField(auto_now_add=True)

    class Meta:
        constraints = (
            models.UniqueConstraint(fields=["owner", "name"], name="an_owner_names_a_view_once"),
        )

    def __str__(self) -> str:
        return self.name


class AuditEventQuerySet(models.QuerySet["AuditEvent"]):
    """Audit events can only be added. Raise TypeError for an update or a delete.

    Sealing and archiving, in `accounts/chain.py` and `accounts/archive.py`, go past this class.
    """

    def update(self, **kwargs: Any) -> int:
        raise TypeError("An audit event cannot be changed.")

    def bulk_update(self, *args: Any, **kwargs: Any) -> int:
        raise TypeError("An audit event cannot be changed.")

    def delete(self) -> tuple[int, dict[str, int]]:
        raise TypeError("An audit event cannot be removed.")


class AuditEvent(models.Model):
    """One entry of the audit log. It has the actor, the action and the object.

    Triggers of the database refuse to change or remove an entry. There are two exceptions. An entry
    is sealed once, which sets `place`, `previous_hash` and `hash`. An entry that an event
    `audit.archived` covers may be removed.
    """

    ARCHIVED = "audit.archived"  # the action of the event that lets a trigger remove others

    at = models.DateTimeField(auto_now_add=True)
    owner = models.ForeignKey(
        settings.AUTH_USER_MODEL, models.PROTECT, related_name="audit_events", db_index=False
    )
    actor = models.CharField(max_length=254)
    action = models.CharField(max_length=64)
    object = models.CharField(max_length=254)
    ip = models.GenericIPAddressField(null=True, blank=True)
    detail = models.JSONField(default=dict)
    place = models.BigIntegerField(
        null=True,
        blank=True,
        unique=True,
        editable=False,
        help_text="in the chain, from 1; empty until the event is sealed",
    )
    previous_hash = models.CharField(max_length=64, blank=True, editable=False)
    hash = models.CharField(
        max_length=64,
        blank=True,
        editable=False,
        help_text="SHA-256 of the event and the one before",
    )

    objects = AuditEventQuerySet.as_manager()

    class Meta:
        constraints = (
            models.CheckConstraint(
                condition=Q(place=None, previous_hash="", hash="")
                | (Q(place__isnull=False) & ~Q(previous_hash="") & ~Q(hash="")),
                name="a_sealed_event_has_its_hashes",
            ),
        )
        indexes = (
            models.Index(fields=["owner", "-at"], name="audit_of_owner"),
            models.Index(fields=["owner", "-id"], name="audit_of_owner_by_id"),
            models.Index(fields=["id"], condition=Q(place=None), name="audit_not_sealed"),
            models.Index(
                fields=["action"], condition=Q(action="audit.archived"), name="audit_archives"
            ),
        )

    def __str__(self) -> str:
        return f"{self.action} {self.object}"

    def save(self, *args: Any, **kwargs: Any) -> None:
        if not self._state.adding:
            raise TypeError("An audit event cannot be changed.")
        super().save(*args, **kwargs)

    def delete(self, *args: Any, **kwargs: Any) -> tuple[int, dict[str, int]]:
        raise TypeError("An audit event cannot be removed.")
