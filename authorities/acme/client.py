"""One account at an ACME CA. It implements `authorities.base.CA`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import requests
from acme import messages
from cryptography import x509
from josepy.errors import Error as JoseError
from josepy.json_util import JSONObjectWithFields
from josepy.json_util import field as json_field

from authorities import chains, errors, pki
from authorities.acme.keys import hmac_key_of, jwk_of, thumbprint_of
from authorities.acme.network import UNREADABLE, Network, connection_to, directory_of
from authorities.acme.problems import absolute, json_of, problem_of
from authorities.base import (
    AccountResource,
    AuthorizationResource,
    ChallengeResource,
    NotYet,
    OrderResource,
    Reach,
    RenewalInfoResource,
)
from authorities.errors import Refused, Unexplained
from certctrl import outgoing
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble, Wait

MAX_URL = 500  # characters; the size of the columns
MAX_NAME = 253
PEM_CHAIN = "application/pem-certificate-chain"


@dataclass(frozen=True)
class ExternalAccount:
    """An external account binding (RFC 8555, 7.3.4).

    `kid` is the key id that the CA gave. `hmac_key` is base64url.
    """

    kid: str
    hmac_key: str = field(repr=False)


class NewOrder(messages.NewOrder):
    """newOrder with the `replaces` member of RFC 9773, section 5, which the library cannot send."""

    replaces: str | None = json_field("replaces", omitempty=True)


class ChallengeAnswer(JSONObjectWithFields):
    """The empty object that is the response to a challenge (RFC 8555, section 7.5.1)."""

    def __bool__(self) -> bool:  # the library sends no object that is false
        return True


class AcmeCA:
    """One account at one ACME CA. Use the object only in the thread that made it.

    `key` is the account key, PKCS#8 in DER or PEM. `url` is the account URL, empty before the
    account is registered.
    """

    def __init__(
        self,
        directory_url: str,
        key: bytes,
        url: str = "",
        email: str = "",
        external: ExternalAccount | None = None,
        reach: Reach = Reach(),  # noqa: B008  (frozen)
    ) -> None:
        self.url = url
        self.email = email
        self.external = external
        self.directory_url = directory_url
        self.reach = reach
        self._key = jwk_of(key)
        self._thumbprint = thumbprint_of(self._key)
        self._bound: Network | None = None

    def __repr__(self) -> str:
        return f"<AcmeCA {self.url or self.directory_url}>"

    @property
    def network(self) -> Network:
        connection = connection_to(self.directory_url)
        if self._bound is None or self._bound.connection is not connection:
            self._bound = Network(self._key, connection, self.reach)
        return self._bound

    # --- the calls ---

    def caa_identities(self) -> tuple[str, ...]:
        meta = directory_of(self.network).get("meta")
        listed = meta.get("caaIdentities") if isinstance(meta, dict) else None
        return (
            tuple(each.lower() for each in listed if isinstance(each, str))
            if isinstance(listed, list)
            else ()
        )

    def register(self) -> AccountResource:
        """Send newAccount (RFC 8555, 7.3), and agree to the CA's terms.

        The owner agreed to the terms when the account was created.
        """
        network = self.network
        message = messages.NewRegistration.from_data(
            email=self.email or None,
            terms_of_service_agreed=True,
            external_account_binding=self._binding(),
        )
        response = network.ask(directory_of(network)["newAccount"], message, _("the account"))
        self.url = self._location(response)
        return AccountResource(
            url=self.url, status=str(json_of(response, network.label).get("status") or "valid")
        )

    def profiles(self) -> Mapping[str, str]:
        """Return `profiles` of the directory's `meta` (draft-ietf-acme-profiles, section 3)."""
        meta = directory_of(self.network).get("meta")
        listed = meta.get("profiles") if isinstance(meta, dict) else None
        return (
            {name: str(says) for name, says in listed.items()} if isinstance(listed, dict) else {}
        )

    def prepare(self) -> None:
        self.network.prepare()

    def new_order(
        self, names: Sequence[str], *, profile: str = "", replaces: str = ""
    ) -> OrderResource:
        """Send newOrder (RFC 8555, 7.4) for A-labels and IP addresses (RFC 8738).

        A wildcard is written `*.name`.
        """
        network = self.network
        identifiers = [identifier_of(name) for name in names]
        what = _("the order for %(name)s", name=names[0])
        if len(names) > 1:
            more = len(names) - 1
            what = _("the order for %(name)s and %(more)s more", name=names[0], more=more)
        message = NewOrder(
            identifiers=identifiers, profile=profile or None, replaces=replaces or None
        )
        response = self._ask(directory_of(network)["newOrder"], message, what)
        return self._order_of(self._location(response), response)

    def read_order(self, url: str) -> OrderResource:
        return self._order_of(url, self._ask(url, None, _("to show the order"), named=True))

    def read_authorization(self, url: str) -> AuthorizationResource:
        response = self._ask(url, None, _("to show the authorization"), named=True)
        try:
            return self._authorization_of(url, json_of(response, self.network.label), response)
        except UNREADABLE as exc:
            raise self._unreadable("authorization", exc) from None

    def answer(self, challenge_url: str) -> str:
        """POST `{}` to the challenge (RFC 8555, 7.5.1).

        CAs refuse an answered, expired or deleted challenge in many ways. The order shows what
        happened to it. So only permanent refusals are raised.
        """
        try:
            self._ask(
                challenge_url, ChallengeAnswer(), _("the answer to the challenge"), named=True
            )
        except (NotYet, Unexplained) as refused:
            return refused.what
        except Refused as refused:
            if refused.permanent:
                raise
        return ""

    def deactivate(self, authorization_url: str) -> None:
        message = messages.UpdateAuthorization(status=messages.STATUS_DEACTIVATED)
        self._ask(authorization_url, message, _("to deactivate the authorization"), named=True)

    def finalize(self, order: OrderResource, csr_pem: str) -> OrderResource:
        """Send the CSR (RFC 8555, 7.4). Raise Wait for orderNotReady."""
        request = messages.CertificateRequest(csr=x509.load_pem_x509_csr(csr_pem.encode()))
        return self._order_of(
            order.url,
            self._ask(order.finalize_url, request, _("the certificate request"), named=True),
        )

    def download(
        self,
        certificate_url: str,
        csr_pem: str = "",
        validity_seconds: int | None = None,
        preferred_chain: str = "",
    ) -> str:
        """Return a chain as PEM, leaf first (RFC 8555, 7.4.2).

        It is the default chain, or the first alternate that has the preferred issuer.
        """
        default, link = self._chain(certificate_url)
        others = map(self._alternate, chains.alternates(link, certificate_url))
        return chains.choose(default, others, preferred_chain)

    def _chain(self, url: str) -> tuple[str, str]:
        """Return a chain as PEM, and the Link header of the response."""
        response = self._ask(url, None, _("the certificate"), accept=PEM_CHAIN, named=True)
        if "-----BEGIN CERTIFICATE-----" not in response.text:
            kind = response.headers.get("Content-Type", "").partition(";")[0][:60] or _("nothing")
            raise Trouble(
                errors.ERROR,
                _(
                    "%(label)s answered %(kind)s instead of a certificate chain. It is retried.",
                    label=self.network.label,
                    kind=kind,
                ),
            )
        return response.text, response.headers.get("Link", "")

    def _alternate(self, url: str) -> str:
        """Return an alternate chain as PEM; empty when the download fails for any reason.

        A missing alternate chain must not stop a renewal.
        """
        try:
            return self._chain(url)[0]
        except (Trouble, Wait):
            return ""

    def revoke(self, chain_pem: str, reason: int) -> None:
        """Send revokeCert (RFC 8555, 7.6), signed with the account key."""
        network = self.network
        leaf = x509.load_pem_x509_certificates(chain_pem.encode())[0]
        try:
            url = directory_of(network)["revokeCert"]
        except KeyError:
            raise Refused(
                "ca_no_revocation",
                _("%(label)s does not revoke certificates. Ask the CA.", label=network.label),
                permanent=True,
            ) from None
        try:
            self._ask(
                url,
                messages.Revocation(certificate=leaf, reason=reason),
                _("to revoke the certificate"),
            )
        except Refused as refused:
            if refused.code != "ca_already_revoked":
                raise

    def offers_renewal_info(self) -> bool:
        return bool(self._renewal_info_url())

    def renewal_info(self, ari_id: str) -> RenewalInfoResource | None:
        """Send the unauthenticated GET of RFC 9773, section 4.1. It needs no account."""
        url = self._renewal_info_url()
        return self.network.read_renewal_info(f"{url}/{ari_id}") if url else None

    def _renewal_info_url(self) -> str:
        url = directory_of(self.network).get("renewalInfo")
        return url.rstrip("/") if isinstance(url, str) else ""

    # --- sending requests, reading responses ---

    def _ask(
        self,
        url: str,
        message: Any,
        what: str,
        accept: str = "application/json",
        *,
        named: bool = False,
    ) -> requests.Response:
        if not self.url:
            raise Trouble(
                errors.UNKNOWN_ACCOUNT,
                _(
                    "The account is not registered at %(directory_url)s yet. Wait until it is.",
                    directory_url=self.directory_url,
                ),
            )
        return self.network.ask(url, message, what, kid=self.url, accept=accept, named=named)

    def _location(self, response: requests.Response) -> str:
        location = response.headers.get("Location", "").strip()
        if not location or not absolute(str(response.url), location).startswith(
            ("https://", "http://")
        ):
            raise Trouble(
                errors.ERROR,
                _(
                    "%(label)s did not send the URL of the new resource. Try again later.",
                    label=self.network.label,
                ),
            )
        return self._url(location, response)

    def _url(self, found: Any, response: requests.Response) -> str:
        """Return a URL from the CA as an absolute URL. It may be relative to the request's URL.

        Raise Refused when it is longer than the column. A new order would bring the same URL.
        """
        url = absolute(str(response.url), _texts([found])[0])
        if len(url) > MAX_URL:
            what = _(
                "%(label)s sent a URL of %(count)s characters. The limit is %(max_url)s. "
                "Tell the CA.",
                label=self.network.label,
                count=len(url),
                max_url=MAX_URL,
            )
            raise Refused(errors.BAD_URL, what)
        return url

    def _binding(self) -> dict[str, Any] | None:
        """Return the external account binding, signed with HS256.

        Raise Refused when the HMAC key is not base64.
        """
        if self.external is None:
            return None
        directory = messages.Directory(directory_of(self.network))
        try:
            hmac_key = hmac_key_of(self.external.hmac_key)
            return messages.ExternalAccountBinding.from_data(
                self._key.public_key(), self.external.kid, hmac_key, directory, "HS256"
            )
        except (ValueError, TypeError, JoseError):
            what = _(
                "The HMAC key of the external account binding is not base64. Copy it "
                "again from the CA."
            )
            raise Refused(errors.BAD_EAB, what, permanent=True) from None

    def _order_of(self, url: str, response: requests.Response) -> OrderResource:
        document = json_of(response, self.network.label)
        problem = problem_of(document.pop("error", None))
        try:
            order = messages.Order.from_json(document)
            return OrderResource(
                url=url,
                status=order.status.name,
                authorizations=tuple(
                    self._url(each, response) for each in _texts(order.authorizations)
                ),
                finalize_url=self._url(order.finalize, response) if order.finalize else "",
                certificate_url=self._url(order.certificate, response) if order.certificate else "",
                expires_at=_aware(order.expires),
                problem=problem,
                retry_after=outgoing.wait_of(response),
            )
        except UNREADABLE as exc:
            raise self._unreadable("order", exc) from None

    def _authorization_of(
        self, url: str, document: dict[str, Any], response: requests.Response
    ) -> AuthorizationResource:
        """Read the authorization without the library.

        The library decodes tokens and encodes them again, which changes some tokens.
        """
        name = _texts([document["identifier"]["value"]])[0]
        if len(name) > MAX_NAME:
            what = _(
                "%(label)s requires an authorization for a name of %(count)s characters, "
                "which no DNS name can have. Tell the CA.",
                label=self.network.label,
                count=len(name),
            )
            raise Refused(errors.WRONG_IDENTIFIER, what, permanent=True)
        listed, status = document.get("challenges") or (), _texts([document["status"]])[0]
        if status == "pending" and not listed:
            about = _(
                "%(label)s shows the authorization for %(name)s without its challenges",
                label=self.network.label,
                name=name,
            )
            raise NotYet(errors.ERROR, f"{about}.", about)
        return AuthorizationResource(
            url=url,
            identifier=name.removeprefix("*.").lower(),
            wildcard=bool(document.get("wildcard")) or name.startswith("*."),
            status=status,
            challenges=tuple(self._challenge_of(each, response) for each in listed),
        )

    def _challenge_of(
        self, document: dict[str, Any], response: requests.Response
    ) -> ChallengeResource:
        """Read a challenge. Note the fault of one that cannot be read, as it may not be used."""
        kind, problem = document["type"], problem_of(document.get("error") or None)
        try:
            token = _texts([document["token"]])[0] if "token" in document else ""
            return ChallengeResource(
                type=kind,
                url=self._url(document["url"], response),
                status=str(document.get("status", "")),
                token=token,
                key_authorization=f"{token}.{self._thumbprint}" if token else "",
                problem=problem,
            )
        except UNREADABLE as exc:
            return ChallengeResource(
                kind, problem=problem, fault=self._unreadable("authorization", exc)
            )
        except Refused as refused:
            return ChallengeResource(kind, problem=problem, fault=refused)

    def _unreadable(self, what: str, exc: Exception) -> Trouble:
        kind = type(exc).__name__
        return Trouble(
            errors.ERROR,
            _(
                "%(label)s sent an %(what)s that does not match RFC 8555 (%(kind)s). It is "
                "retried.",
                label=self.network.label,
                what=what,
                kind=kind,
            ),
        )


def identifier_of(name: str) -> messages.Identifier:
    """Return the identifier of a name: an IP address (RFC 8738, section 3), or a DNS name."""
    kind = messages.IDENTIFIER_IP if pki.is_address(name) else messages.IDENTIFIER_FQDN
    return messages.Identifier(typ=kind, value=name)


def _texts(found: Any) -> tuple[str, ...]:
    if isinstance(found, str) or not all(
        isinstance(each, str) and each and each.isprintable() for each in found or ()
    ):
        raise ValueError("not a list of texts")
    return tuple(found or ())


def _aware(at: datetime | None) -> datetime | None:
    return at.astimezone(UTC) if at else None
