"""The interface between this server and a DNS provider."""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import requests

from certctrl import clock, errors, outgoing, watching
from certctrl.log import Secret, mask
from certctrl.sentences import Sentence, first_of, printable, said_by, with_parts
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble
from dnsclient.names import a_label
from dnsproviders import ratelimit
from dnsproviders.models import DnsCredential, TxtRecord
from dnsproviders.ratelimit import ApiLimit


class ProviderError(Trouble):
    """A call to a DNS provider failed.

    Codes:

    - dns_unreachable
    - dns_credential_refused: permanent
    - dns_zone_not_found: permanent
    - dns_zone_not_served: permanent. The provider takes records there that nobody will see.
    - dns_rate_limited
    - dns_refused: permanent when the same record would be refused again
    - dns_bad_answer: not the JSON or the DNS message of the provider's documentation
    """


class ErrorKind(NamedTuple):
    """The meaning of a provider's error: a code of ProviderError, and whether it is permanent."""

    code: str
    permanent: bool = False


CREDENTIAL = ErrorKind("dns_credential_refused", permanent=True)
NO_ZONE = ErrorKind("dns_zone_not_found", permanent=True)
FOR_GOOD = ErrorKind("dns_refused", permanent=True)  # the same record is refused again
LIMITED = ErrorKind("dns_rate_limited")
PASSING = ErrorKind("dns_refused")


@dataclass(frozen=True)
class Field:
    """A member of the create request, with its entry in the catalogue.

    `tidy` runs before the checks. It removes, for example, quotes that were copied with the value.
    `check` returns the value, perhaps in a canonical form. It raises ValueError with the end of the
    sentence "`name` …".
    `gets_secrets` marks a field that names the destination of the secrets. A change of this field
    needs the secrets again. Otherwise an editor could send them to another server and read them.
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
        """Return the checked value. Raise Invalid, which names the field and not the value."""
        return self._integer(value) if self.integer else self._text(value)

    def _integer(self, value: Any) -> int:
        most = self.most or 2**31 - 1
        if isinstance(value, bool) or not isinstance(value, int) or not self.least <= value <= most:
            raise self.invalid(
                _("must be a whole number from %(least)s to %(most)s", least=self.least, most=most)
            )
        return value

    def _text(self, value: Any) -> str:
        most = self.most or (4096 if self.secret else 255)
        if not isinstance(value, str):
            raise self.invalid(_("must be text"))
        value = self.tidy(value) if self.tidy else value
        if any(unicodedata.category(each) in ("Cc", "Cs", "Zl", "Zp") for each in value):
            raise self.invalid(_("has a control character, perhaps a line break at its end"))
        if len(value) > most:
            raise self.invalid(_("is longer than %(most)s characters", most=most))
        if self.choices and value not in self.choices:
            raise self.invalid(_("must be one of %(choices)s", choices=", ".join(self.choices)))
        try:
            return self.check(value) if self.check else value
        except ValueError as exc:
            raise self.invalid(exc.args[0]) from None

    def invalid(self, what: str) -> errors.Invalid:
        return errors.Invalid(_("%(name)s %(what)s.", name=self.name, what=what), field=self.name)


PROPAGATION_CHECKS = tuple(DnsCredential.PropagationCheck.values)

COMMON_FIELDS = (
    Field(
        "name",
        _("Name"),
        required=False,
        most=64,
        help=_("A name of your choice; the provider's name when left out."),
    ),
    Field(
        "ttl",
        _("TTL"),
        required=False,
        default=60,
        integer=True,
        least=1,
        most=86400,
        help=_("Seconds."),
    ),
    Field(
        "propagation_check",
        _("Propagation check"),
        required=False,
        default=DnsCredential.PropagationCheck.AUTHORITATIVE.value,
        choices=PROPAGATION_CHECKS,
        help=_("Servers that are asked for the record: the zone's servers, the resolver, or none."),
    ),
    Field(
        "propagation_timeout",
        _("Propagation time-out"),
        required=False,
        default=1800,
        integer=True,
        least=30,
        most=86400,
        help=_("Seconds until an attempt no longer waits for a record."),
    ),
    Field(
        "settle",
        _("Settling time"),
        required=False,
        default=0,
        integer=True,
        most=3600,
        help=_("Seconds to wait after the last server shows a record."),
    ),
)


class SeenZone(Protocol):
    """The zone that holds a name, as the resolvers and the zone's servers show it.

    `origins` has the primary server and the mailbox of its SOA records.
    """

    @property
    def name(self) -> str: ...

    @property
    def origins(self) -> Collection[str]: ...


class Provider(ABC):
    """One DNS provider with one credential, for the calls of one turn.

    HTTP calls go through `send`. It takes a token of the API limit, and ends with the turn.
    Providers do not sleep or retry. Their messages contain no secrets.
    """

    name: ClassVar[str]
    fields: ClassVar[Sequence[Field]]
    # Whether the owner of the credential names the host that is called.
    is_named_by_owner: ClassVar[bool] = False
    # The API limit of one user, if the provider's documentation has one.
    limit: ClassVar[ApiLimit | None] = None

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
        """Return the provider's id of the zone that holds `name`, or the zone's name.

        Raise ProviderError("dns_zone_not_found", permanent=True). Its sentence lists the zones that
        the credential can see, where the provider can list them.
        """

    def zone_name(self, zone: str) -> str:
        """Return the name of the zone that `zone_of` has just returned, or "" if unknown."""
        return zone

    @abstractmethod
    def present(self, record: TxtRecord) -> None:
        """Add the record to its zone, and keep all other records. Do nothing if it exists.

        After a call that writes, do not raise NotSent. It would mean that nothing was written.
        """

    @abstractmethod
    def cleanup(self, record: TxtRecord) -> int:
        """Remove the record with this name and value, and no other.

        Return how many records were removed: 0 when there was none.
        """

    @abstractmethod
    def check(self) -> None:
        """Raise ProviderError when the provider does not accept the credential. Only read."""

    def doubt(self, zone: str, name: str, seen: SeenZone) -> str:
        """Return a sentence that says why the public may never see a record at `name`, or "".

        `zone` is the result of `zone_of`. `seen` is the zone that the resolvers see there.
        """
        return ""

    @classmethod
    def party(cls, public: Mapping[str, Any]) -> str:
        """Return host and port that are called, or "" when all credentials call the same."""
        return ""

    @classmethod
    def note(cls, public: Mapping[str, Any]) -> str:
        """Return a sentence with a warning about a credential with these fields, or ""."""
        return ""

    @classmethod  # noqa: B027, most providers have nothing to say here
    def check_together(cls, given: Mapping[str, Any]) -> None:
        """Raise a ApiError when fields do not fit together, although each of them is valid."""

    # --- For HTTP APIs ---

    def send(self, method: str, url: str, *, action: str = "", **kwargs: Any) -> requests.Response:
        """Make one HTTP call. Return the response, also that of most errors.

        `action` names what the call does, for an API whose path does not say it.

        Redirects are not followed, because a POST would become a GET and seem to succeed.
        Raise NotSent while the API limit is used up. Raise ProviderError in these cases:

        - dns_unreachable: there is no response.
        - dns_credential_refused: status 401.
        - dns_rate_limited: status 429, with `retry_after` in seconds.
        - dns_bad_answer: a redirect.
        """
        self.pace.take(needs=1 if self.is_visiting else ratelimit.VISIT)
        self.is_visiting = True
        began = clock.monotonic()
        shown = f"{watching.bare(url)} {action}".strip()
        try:
            with self.going_out():
                response = self.http.request(method, url, allow_redirects=False, **kwargs)
        except requests.RequestException as exc:
            # Exceptions of `certctrl.outgoing` are sentences.
            why = said_by(exc)
            if not isinstance(why, Sentence):
                why = f"{self.quote(str(exc) or type(exc).__name__)}."
            what = _(
                "%(name)s could not be reached. %(why)s",
                name=self.name,
                why=with_parts(why, self.quote),
            )
            self.tell(method, shown, began, error=what)
            raise ProviderError("dns_unreachable", what) from None
        self.tell(method, shown, began, status=response.status_code)
        if response.status_code == 429:
            self.pace.pause(outgoing.wait_of(response))
        if response.status_code in (401, 429) or 300 <= response.status_code < 400:
            raise self.refusal(response)
        return response

    def tell(self, method: str, url: str, began: float, **end: Any) -> None:
        """Tell a call to the function that keeps exchanges (`certctrl/watching.py`)."""
        owner_id = self.credential.owner_id
        watching.tell(watching.ApiCall(self.name, owner_id, method, self.quote(url), began, **end))

    @contextmanager
    def going_out(self) -> Iterator[None]:
        """Mark the calls in the body as calls to a host that a tenant named, if that is so.

        A tenant is an owner who is not staff. `certctrl.outgoing` lets tenants call fewer private
        addresses, and gives one sentence for all failures, so that nobody can scan ports.
        """
        owner = (
            self.credential.owner if self.is_named_by_owner and self.credential.owner_id else None
        )
        with outgoing.named_by_tenant(bool(owner and not owner.is_staff)):
            yield

    def json_of(self, response: requests.Response) -> dict[str, Any]:
        """Return the JSON object of an answer with any status.

        Raise ProviderError("dns_bad_answer") when the body is not a JSON object.
        """
        try:
            body = response.json()
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise self.bad_answer(response)
        return body

    def refusal(self, response: requests.Response) -> ProviderError:
        """Return the error of an unsuccessful answer, with the provider's own words."""
        status = response.status_code
        said = self.said(response)
        if status in (401, 403):
            return ProviderError(
                "dns_credential_refused",
                _(
                    "%(name)s refused the credential%(said)s. Check the credential.",
                    name=self.name,
                    said=said,
                ),
                permanent=True,
            )
        if status == 429:
            what = _("%(name)s limits the rate of requests%(said)s.", name=self.name, said=said)
            return ProviderError("dns_rate_limited", what, retry_after=outgoing.wait_of(response))
        if 300 <= status < 400:
            return ProviderError(
                "dns_bad_answer",
                _(
                    "%(name)s redirects to another address (%(status)s). If the credential "
                    "has an endpoint, set it to the final address.",
                    name=self.name,
                    status=status,
                ),
            )
        what = _("%(name)s answered %(status)s%(said)s.", name=self.name, status=status, said=said)
        return ProviderError("dns_refused", what, retry_after=outgoing.wait_of(response))

    def bad_answer(self, response: requests.Response) -> ProviderError:
        kind = (
            _("an empty answer")
            if not response.content
            else "HTML"
            if is_html(response)
            else _("something else")
        )
        what = _(
            "%(name)s answered %(status_code)s with %(kind)s instead of JSON. Check the "
            "address and the status of the provider.",
            name=self.name,
            status_code=response.status_code,
            kind=kind,
        )
        return ProviderError("dns_bad_answer", what, retry_after=outgoing.wait_of(response))

    @contextmanager
    def as_documented(self) -> Iterator[None]:
        """Raise ProviderError("dns_bad_answer") when a member is missing or has a wrong type."""
        try:
            yield
        except (LookupError, TypeError, ValueError, AttributeError):
            what = _(
                "%(name)s answered JSON that does not match its documentation. Report "
                "this to the developers of certctrl.",
                name=self.name,
            )
            raise ProviderError("dns_bad_answer", what) from None

    def words(self, response: requests.Response) -> str:
        """Return the provider's own words about an error, or ""."""
        return ""

    def said(self, response: requests.Response) -> str:
        words = self.words(response)
        return _(": %(words)s", words=self.quote(words)) if words else ""

    def quote(self, words: str) -> str:
        """Return foreign words in a form that is safe in a sentence.

        They have one line, at most 300 characters, and no secret of the credential.
        """
        for secret in self.secret.values():
            words = words.replace(secret.reveal(), "***") if secret.reveal() else words
        # An answer may repeat the request with the secret in another form, for example in a Basic
        # header or in a query.
        words = mask(words)
        line = " ".join(printable(words).split())
        return (line[:297] + "..." if len(line) > 300 else line).rstrip(".")


def elsewhere(provider: str, zone: str, name: str, seen: SeenZone) -> str:
    """Return the doubt about a zone that is not the one that the resolvers see, or ""."""
    if a_label(zone) == seen.name:
        return ""
    return _(
        "%(provider)s has %(name)s in its zone %(zone)s, but resolvers see it in the "
        "zone %(seen_name)s. They may never see the TXT record. Give a credential for "
        "%(seen_name)s, or delegate %(zone)s to %(provider)s by NS records.",
        provider=provider,
        name=name,
        zone=zone,
        seen_name=seen.name,
    )


def is_html(response: requests.Response) -> bool:
    """Return whether the body is HTML, by its first characters.

    The content type does not help, because frameworks also send text/html with an empty success.
    """
    return (
        response.content[:200]
        .lstrip()
        .lower()
        .startswith((b"<!doctype", b"<html", b"<head", b"<body"))
    )


def unquoted(content: str) -> str:
    """Return the value of a TXT record (RFC 1035, section 5.1).

    `content` is the bare value, or it has character strings: "ab" "cd".
    """
    if not content.startswith('"'):
        return content
    return "".join(content.split('"')[1::2])


def listed(zones: Sequence[str], total: int | None = None) -> str:
    """Return the first ten zones for a sentence, and how many more there are."""
    return first_of(zones, 10, total or 0) if zones else _("none")
