"""The whole contract between the server and a DNS provider."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import requests

from certctrl.turns import Trouble
from dnsproviders.models import DnsCredential, TxtRecord


class ProviderError(Trouble):
    """A call to a DNS provider failed.

    Codes: dns_unreachable, dns_credential_refused (permanent), dns_zone_not_found (permanent), dns_rate_limited,
    dns_refused, dns_bad_answer (not the JSON or DNS message that its documentation promises).
    """


@dataclass(frozen=True)
class Field:
    """A member of the create request, and what the catalogue says of it."""

    name: str
    label: str
    secret: bool = False
    required: bool = True
    default: str | int | None = None
    help: str = ""
    integer: bool = False


class Provider(ABC):
    """One DNS provider with one credential. Made for one use; keeps nothing between calls.

    Every call goes through `self.http`, whose deadline is the turn's. Nothing here sleeps or retries. Messages carry
    no secret.
    """

    name: ClassVar[str]
    fields: ClassVar[Sequence[Field]]

    def __init__(self, credential: DnsCredential, secret: Mapping[str, str], http: requests.Session) -> None:
        self.credential = credential
        self.public = credential.public
        self.secret = secret
        self.http = http

    @abstractmethod
    def zone_of(self, name: str) -> str:
        """The provider's word for the zone that holds `name`: an id, or the zone's name.

        Raises ProviderError("dns_zone_not_found", permanent=True) that says which zones the credential does see.
        """

    @abstractmethod
    def present(self, record: TxtRecord) -> None:
        """Add (name, value) to the zone, beside what is there; nothing happens when it is there already."""

    @abstractmethod
    def cleanup(self, record: TxtRecord) -> int:
        """Remove (name, value) and nothing else; answers how many were removed, 0 when it was absent."""

    @abstractmethod
    def check(self) -> None:
        """Prove the credential by reading; writes nothing."""
