"""The header Idempotency-Key. A request that is sent again gets the rows that it made at first."""

from collections.abc import Callable
from dataclasses import dataclass

from django.db import IntegrityError, transaction

from accounts.models import User
from certctrl.errors import Conflict, IdempotencyConflict
from certctrl.sentences import sentence as _
from issuance.models import Certificate, Issuance, RequestKey


@dataclass(frozen=True)
class Idempotency:
    """The Idempotency-Key of a request, and the SHA-256 digest of its method, path and body."""

    key: str
    digest: str


def once(
    owner: User,
    idempotency: Idempotency | None,
    make: Callable[[], tuple[Certificate, Issuance | None]],
) -> tuple[Certificate, Issuance | None]:
    """Return the rows of `make()`, or those that the same Idempotency-Key made before.

    Without `idempotency`, always call `make`. Raise IdempotencyConflict when the key was used for
    another request. Raise Conflict when its certificate was deleted.
    """
    for last in (False, True):
        try:
            with transaction.atomic():
                return _once(owner, idempotency, make)
        except IntegrityError:  # the same request came at the same time; its key is stored now
            if last:
                raise
    raise AssertionError


def _once(
    owner: User,
    idempotency: Idempotency | None,
    make: Callable[[], tuple[Certificate, Issuance | None]],
) -> tuple[Certificate, Issuance | None]:
    if not idempotency:
        return make()
    key, is_new = RequestKey.objects.get_or_create(
        owner=owner, key=idempotency.key, defaults={"digest": idempotency.digest}
    )
    if not is_new:
        return _replay(key, idempotency)
    certificate, issuance = make()
    RequestKey.objects.filter(pk=key.pk).update(certificate=certificate, issuance=issuance)
    return certificate, issuance


def _replay(key: RequestKey, idempotency: Idempotency) -> tuple[Certificate, Issuance | None]:
    if key.digest != idempotency.digest:
        raise IdempotencyConflict(
            _(
                "The Idempotency-Key %(key)s was used for another request. Choose a new one.",
                key=key.key,
            )
        )
    assert key.certificate
    if key.certificate.retired_at:
        raise Conflict(
            _(
                "%(domain)s was deleted. Use another Idempotency-Key to create it again.",
                domain=key.certificate.domain,
            )
        )
    return key.certificate, key.issuance
