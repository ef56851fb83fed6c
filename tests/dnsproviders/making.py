"""Providers and records that are not in a database, and an HTTP service that fails."""

import re
from typing import Any

import responses

from certctrl import outgoing
from certctrl.log import Secret
from dnsproviders.base import Provider
from dnsproviders.models import DnsCredential, TxtRecord

APEX = "apex-value-apex-value-apex-value-apex-value0"
WILDCARD = "wildcard-value-wildcard-value-wildcard-val0"


def provider_of(cls: type[Provider], secret: dict[str, str], **public: Any) -> Any:
    wrapped = {name: Secret(value) for name, value in secret.items()}
    credential = DnsCredential(name="mine", provider=cls.__name__.lower(), public=public)
    return cls(credential, wrapped, outgoing.session())


def record_of(
    zone: str, value: str, name: str = "_acme-challenge.example.com", ttl: int = 60
) -> TxtRecord:
    return TxtRecord(credential=DnsCredential(ttl=ttl), zone=zone, name=name, value=value)


def answer_always(base: str, **kwargs: Any) -> None:
    """Send this response to every request below `base`."""
    for method in (responses.GET, responses.POST, responses.DELETE):
        responses.add(method, re.compile(re.escape(base)), **kwargs)
