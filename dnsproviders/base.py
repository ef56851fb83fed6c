"""The whole contract between the server and a DNS provider."""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import requests

from certctrl import errors, outgoing
from certctrl.log import Secret, mask
from certctrl.turns import Trouble, printable
from dnsclient.names import a_label
from dnsproviders import ratelimit
from dnsproviders.models import DnsCredential, TxtRecord
from dnsproviders.ratelimit import ApiLimit


class ProviderError(Trouble):
    """A call to a DNS provider failed.

    Codes: dns_unreachable, dns_credential_refused (permanent), dns_zone_not_found (permanent), dns_rate_limited,
    dns_refused, dns_zone_not_served (permanent: it takes records that nobody will see), dns_bad_answer (not the JSON or
    DNS message that its documentation promises).
    """


class Kind(NamedTuple):
    """What an error of a provider means: a code of ProviderError, and whether it is permanent."""

    code: str
    permanent: bool = False


CREDENTIAL = Kind("dns_credential_refused", permanent=True)
NO_ZONE = Kind("dns_zone_not_found", permanent=True)
FOR_GOOD = Kind("dns_refused", permanent=True)  # the same record is refused again
LIMITED = Kind("dns_rate_limited")
PASSING = Kind("dns_refused")


@dataclass(frozen=True)
class Field:
    """A member of the create request, and what the catalogue says of it.

    `tidy` takes away what came along when the text was copied, before anything is checked. `check` gets the text and
    raises ValueError with the end of the sentence "`name` …"; it may answer a tidier value.
    A change of a field that `gets_secrets` needs the secrets anew: whoever may edit must not be able to read them so.
    """

    name: str
    label: str
    secret: bool = False
    required: bool = True
    default: str | int | None = None
    help: str = ""
    integer: bool = False
    least: int = 0
    most: int | None = None
    choices: Sequence[str] = ()
    gets_secrets: bool = False
    tidy: Callable[[str], str] | None = None
    check: Callable[[str], str] | None = None

    def clean(self, value: Any) -> str | int:
        """The value, checked. Raises Invalid that names the field and never repeats a value."""
        return self._integer(value) if self.integer else self._text(value)

    def _integer(self, value: Any) -> int:
        most = self.most or 2**31 - 1
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= most:
            raise self.invalid(f"must be a whole number from {self.least} to {most}")
        return value

    def _text(self, value: Any) -> str:
        most = self.most or (4096 if self.secret else 255)
        if not isinstance(value, str):
            raise self.invalid("must be text")
        value = self.tidy(value) if self.tidy else value
        if any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in value):
            raise self.invalid("holds a control character; a line break at its end, perhaps")
        if len(value) > most:
            raise self.invalid(f"is longer than {most} characters")
        if self.choices and value not in self.choices:
            raise self.invalid(f"must be one of {', '.join(self.choices)}")
        try:
            return self.check(value) if self.check else value
        except ValueError as exc:
            raise self.invalid(str(exc)) from None

    def invalid(self, what: str) -> errors.Invalid:
        return errors.Invalid(f"{self.name} {what}.", field=self.name)


PROPAGATION_CHECKS = tuple(DnsCredential.PropagationCheck.values)

COMMON_FIELDS = (
    Field(
        "name",
        "Name",
        required=False,
        most=64,
        help="Yours to choose; the provider's name when left out.",
    ),
    Field(
        "ttl", "TTL", required=False, default=60, integer=True, least=1, most=86400, help="Seconds."
    ),
    Field(
        "propagation_check",
        "Propagation check",
        required=False,
        default=DnsCredential.PropagationCheck.AUTHORITATIVE.value,
        choices=PROPAGATION_CHECKS,
        help="Whom to ask whether a record is there: the zone's servers, the resolver, or nobody.",
    ),
    Field(
        "propagation_timeout",
        "Propagation time-out",
        required=False,
        default=1800,
        integer=True,
        least=30,
        most=86400,
        help="Seconds until an attempt gives up waiting for a record.",
    ),
    Field(
        "settle",
        "Settling time",
        required=False,
        default=0,
        integer=True,
        most=3600,
        help="Seconds to wait after the last server shows a record.",
    ),
)


class SeenZone(Protocol):
    """The zone that holds a name, as resolvers and its servers show it; `origins` are what its SOA records name as
    primary server and mailbox."""

    @property
    def name(self) -> str: ...

    @property
    def origins(self) -> Collection[str]: ...


class Provider(ABC):
    """One DNS provider with one credential. Made for one use; keeps nothing between calls.

    Every call goes through `self.http`, whose deadline is the turn's, after it took a token of the API's limit. Nothing
    here sleeps or retries. Messages carry no secret.
    """

    name: ClassVar[str]
    fields: ClassVar[Sequence[Field]]
    is_named_by_owner: ClassVar[bool] = False  # the host that is called, and not by this server
    limit: ClassVar[ApiLimit | None] = (
        None  # what the API allows one user, where its documentation says so
    )

    def __init__(
        self, credential: DnsCredential, secret: Mapping[str, Secret], http: requests.Session
    ) -> None:
        self.credential = credential
        self.public = credential.public
        self.secret = secret
        self.http = http
        self.pace = ratelimit.pace_of(self.name, credential, self.limit)
        self.is_visiting = False

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

    def doubt(self, zone: str, name: str, seen: SeenZone) -> str:
        """Why the public may never see what is written at `name` into `zone`, the answer of `zone_of`: a sentence, or
        nothing. `seen` is the zone that resolvers see there."""
        return ""

    @classmethod
    def note(cls, public: Mapping[str, Any]) -> str:
        """What will surprise about a credential with these fields: a sentence, or nothing."""
        return ""

    @classmethod  # noqa: B027, most providers have nothing to say here
    def check_together(cls, given: Mapping[str, Any]) -> None:
        """Raise a Refusal where fields that are right one by one do not fit together."""

    # --- What every HTTP API needs ---

    def send(self, method: str, url: str, **kwargs: Any) -> requests.Response:
        """One HTTP call. Redirects are not followed: a POST would become a GET, and look as if it had worked.

        Raises Wait where the API's limit allows no call now, and ProviderError: dns_unreachable; dns_credential_refused
        for 401; dns_rate_limited for 429, with `retry_after`; dns_bad_answer for a redirect. Every other answer is the
        caller's to judge.
        """
        self.pace.take(needs=1 if self.is_visiting else ratelimit.VISIT)
        self.is_visiting = True
        try:
            with self.going_out():
                response = self.http.request(method, url, allow_redirects=False, **kwargs)
        except requests.RequestException as exc:  # outgoing's are sentences
            what = (
                f"{self.name} could not be reached: {self.quote(str(exc) or type(exc).__name__)}."
            )
            raise ProviderError("dns_unreachable", what) from None
        if response.status_code == 429:
            self.pace.pause(outgoing.wait_of(response))
        if response.status_code in (401, 429) or 300 <= response.status_code < 400:
            raise self.refusal(response)
        return response

    @contextmanager
    def going_out(self) -> Iterator[None]:
        """A call to the provider, at a host that its owner named or at one that is known."""
        owner = (
            self.credential.owner if self.is_named_by_owner and self.credential.owner_id else None
        )
        with outgoing.named_by_tenant(bool(owner and not owner.is_staff)):
            yield

    def json_of(self, response: requests.Response) -> dict[str, Any]:
        """The JSON object of an answer, whatever its status; raises ProviderError dns_bad_answer when it is none."""
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise self.bad_answer(response)
        return body

    def refusal(self, response: requests.Response) -> ProviderError:
        """What an answer that is no success means, with the other side's own words."""
        status, said = response.status_code, self.said(response)
        if status in (401, 403):
            return ProviderError(
                "dns_credential_refused",
                f"{self.name} refused the credential{said}.",
                permanent=True,
            )
        if status == 429:
            what = f"{self.name} asks us to slow down{said}."
            return ProviderError("dns_rate_limited", what, retry_after=outgoing.wait_of(response))
        if 300 <= status < 400:
            return ProviderError(
                "dns_bad_answer",
                f"{self.name} sent us elsewhere ({status}); give the final address.",
            )
        what = f"{self.name} answered {status}{said}."
        return ProviderError("dns_refused", what, retry_after=outgoing.wait_of(response))

    def bad_answer(self, response: requests.Response) -> ProviderError:
        kind = (
            "an empty answer"
            if not response.content
            else "HTML"
            if is_html(response)
            else "something else"
        )
        what = f"{self.name} answered {response.status_code} with {kind} where JSON was promised."
        return ProviderError("dns_bad_answer", what, retry_after=outgoing.wait_of(response))

    @contextmanager
    def as_documented(self) -> Iterator[None]:
        """Members of an answer that are missing or of another type become ProviderError dns_bad_answer."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError):
            what = f"{self.name} answered JSON that is not what its documentation promises."
            raise ProviderError("dns_bad_answer", what) from None

    def words(self, response: requests.Response) -> str:
        """The other side's own words about an error; empty when it has none."""
        return ""

    def said(self, response: requests.Response) -> str:
        words = self.words(response)
        return f": {self.quote(words)}" if words else ""

    def quote(self, words: str) -> str:
        """Foreign words made fit for a sentence of ours: one line, not long, no secret of ours in them."""
        for secret in self.secret.values():
            words = words.replace(secret.reveal(), "***") if secret.reveal() else words
        words = mask(
            words
        )  # an answer that echoes the request shows it in other forms: Basic, in a query
        line = " ".join(printable(words).split())
        return (line[:297] + "..." if len(line) > 300 else line).rstrip(".")


def elsewhere(provider: str, zone: str, name: str, seen: SeenZone) -> str:
    """The doubt about a zone that is not the one which resolvers see."""
    if a_label(zone) == seen.name:
        return ""
    return (
        f"{provider} has {name} in its zone {zone}, and resolvers see it in the zone {seen.name}: they may never see"
        f" the TXT record. Give a credential for {seen.name}, or delegate {zone} to {provider} by NS records."
    )


def is_html(response: requests.Response) -> bool:
    """By what it begins with: frameworks send text/html for an empty success as well."""
    return (
        response.content[:200]
        .lstrip()
        .lower()
        .startswith((b"<!doctype", b"<html", b"<head", b"<body"))
    )


def unquoted(content: str) -> str:
    """The value of a TXT record written as character strings ("ab" "cd") or bare (RFC 1035, section 5.1)."""
    if not content.startswith('"'):
        return content
    return "".join(content.split('"')[1::2])


def listed(zones: Sequence[str], total: int | None = None) -> str:
    """Zones in a sentence: the first ten, and how many more there are."""
    shown = list(zones[:10])
    more = max(total or 0, len(zones)) - len(shown)
    return (", ".join(shown) or "none") + (f" and {more} more" if more > 0 else "")
