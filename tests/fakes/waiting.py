"""Attempts that wait for their records, written directly into the tables without a CA.

Thousands are written in a second.
"""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from django.db import transaction

from authorities.models import AcmeAccount
from dnsproviders.models import DnsCredential, TxtRecord
from issuance import models
from issuance.models import Authorization, Certificate, Issuance


# In one transaction, because an attempt without authorizations looks as if it needs no record.
@transaction.atomic
def attempts(
    account: AcmeAccount,
    credential: DnsCredential,
    domains: Sequence[str],
    at: datetime,
    **fields: Any,
) -> list[Issuance]:
    """Write one attempt for each domain, in the state `presented` since `at`.

    Its TXT record says that it was written at `at`. The zone itself is not changed. `fields` are
    other values of the attempts.
    """
    certificates = Certificate.objects.bulk_create(
        _certificate(account, credential, name) for name in domains
    )
    issuances = Issuance.objects.bulk_create(
        _issuance(certificate, at, **fields) for certificate in certificates
    )
    records = TxtRecord.objects.bulk_create(_record(credential, name, at) for name in domains)
    Authorization.objects.bulk_create(
        _authorization(*each) for each in zip(issuances, domains, records, strict=True)
    )
    return issuances


def _certificate(account: AcmeAccount, credential: DnsCredential, domain: str) -> Certificate:
    return Certificate(
        owner=account.owner,
        domain=domain,
        names=[domain],
        account=account,
        credential=credential,
        request_digest=models.digest(domain),
    )


def _issuance(certificate: Certificate, at: datetime, **fields: Any) -> Issuance:
    usual = {
        "names_key": models.names_key(certificate.account, certificate.names),
        "reason": Issuance.Reason.NEW,
        "state": Issuance.State.PRESENTED,
        "state_since": at,
        "deadline_at": at + timedelta(minutes=30),
        "order_url": f"https://ca.test/order/{certificate.domain}",
        "wake_at": at,
    }
    return Issuance(
        certificate=certificate,
        account=certificate.account,
        credential=certificate.credential,
        **usual | fields,
    )


def _record(credential: DnsCredential, domain: str, at: datetime) -> TxtRecord:
    return TxtRecord(
        credential=credential,
        zone=domain.partition(".")[2],
        name=f"_acme-challenge.{domain}",
        value=models.digest(domain)[:43],
        intent_at=at,
        presented_at=at,
        wake_at=at + timedelta(minutes=10),
    )


def _authorization(issuance: Issuance, domain: str, record: TxtRecord) -> Authorization:
    return Authorization(
        issuance=issuance,
        url=f"https://ca.test/authz/{domain}",
        identifier=domain,
        status=Authorization.Status.PENDING,
        challenge="dns-01",
        challenge_url=f"https://ca.test/chall/{domain}",
        record=record,
    )
