"""Sign in at an OpenID provider: the authorization code flow with PKCE, state and nonce.

Sources: OpenID Connect Core 1.0, section 3.1; OpenID Connect Discovery 1.0; RFC 7636; RFC 9207.
The library Authlib speaks the protocol, and every request goes through `certctrl.outgoing`.
"""

import hmac
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import requests
import structlog
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client.oauth2_session import OAuth2Auth, OAuth2ClientAuth
from authlib.oauth2.client import OAuth2Client
from authlib.oidc.core import CodeIDToken
from django.conf import settings
from django.core import signing
from django.db import IntegrityError, transaction
from django.http import HttpRequest
from django.urls import reverse
from django.utils import translation
from django.views.decorators.debug import sensitive_variables
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet

from accounts import audit, services
from accounts.models import User
from certctrl import clock, errors, outgoing
from certctrl.sentences import printable
from certctrl.sentences import sentence as _
from signin import entering, secondfactor
from signin.models import ExternalIdentity

log = structlog.get_logger()

COOKIE = "openid"  # signed: the state, the nonce and the verifier, between two requests
COOKIE_AGE = 600  # seconds
SALT = "signin.openid"
DISCOVERY = "/.well-known/openid-configuration"
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
LONGEST_SUBJECT = 255  # OpenID Connect Core, section 2
LEEWAY = 60  # seconds that the provider's clock may differ
FRESH = 300  # seconds since the provider asked the person again
# Seconds for which the metadata are kept, whatever their headers ask for.
MIN_AGE, MAX_AGE = 60.0, 3600.0
# The metadata of the issuer in this process, and the reading of the clock until which they count.
_kept: dict[str, tuple[dict[str, Any], float]] = {}


class Client(OAuth2Client):  # type: ignore[misc]
    client_auth_class = OAuth2ClientAuth
    token_auth_class = OAuth2Auth


@dataclass(frozen=True)
class Begun:
    """The address that the browser goes to, and the content of the cookie."""

    address: str
    cookie: str


def is_on() -> bool:
    return bool(settings.OIDC_ISSUER)


def begin(request: HttpRequest, back: str, again: bool = False) -> Begun:
    """Return where the browser goes. With `again`, the provider asks the person once more.

    Raise NotFound if no provider is set up. Raise Unavailable if it cannot be asked.
    """
    _refuse_off()
    state, nonce = secrets.token_urlsafe(32), secrets.token_urlsafe(32)
    verifier = secrets.token_urlsafe(48)
    with _told():
        address, _state = _client(request).create_authorization_url(
            _metadata()["authorization_endpoint"],
            state=state,
            nonce=nonce,
            code_verifier=verifier,
            **({"prompt": "login", "max_age": "0"} if again else {}),
        )
    held = {"state": state, "nonce": nonce, "verifier": verifier, "next": back, "again": again}
    return Begun(address, signing.dumps(held, salt=SALT))


@sensitive_variables()
def finish(request: HttpRequest) -> str:
    """Log in the person that the provider sends back. Return the path of the next page.

    Raise Unauthorized for an answer that does not belong to this browser, or is not valid. Raise
    Forbidden for a person without an account here. Raise CodeNeeded for the second factor.
    """
    _refuse_off()
    held = _held(request)
    claims = _claims(request, held)
    user = _user_of(request, claims)
    is_again = held["again"] and isinstance(request.user, User)
    if is_again:
        _refuse_stale(request, user, claims)
    try:
        # With a second factor, its code begins a fresh session. Without one, this session stays.
        if is_again and not secondfactor.is_on(user):
            services.confirm_login(request)
        else:
            entering.finish(request, user, ("oidc",))
    except entering.CodeNeeded as needed:
        needed.back = held["next"]
        raise
    return str(held["next"])


def _refuse_off() -> None:
    if not is_on():
        raise errors.NotFound(_("This server knows no OpenID provider."))


def _held(request: HttpRequest) -> dict[str, Any]:
    """Return the content of the cookie, if the answer belongs to it."""
    try:
        held = signing.loads(request.COOKIES.get(COOKIE, ""), salt=SALT, max_age=COOKIE_AGE)
    except signing.BadSignature:
        raise entering.over() from None
    state = request.GET.get("state", "").encode("utf-8", "replace")
    if not hmac.compare_digest(state, held["state"].encode()):
        raise entering.over()
    if request.GET.get("iss", settings.OIDC_ISSUER) != settings.OIDC_ISSUER:  # RFC 9207
        raise entering.over()
    if "error" in request.GET or "code" not in request.GET:
        said = printable(request.GET.get("error", "")[:64]) or _("no code")
        raise errors.Unauthorized(
            _("The provider did not sign you in (%(said)s). Try again.", said=said)
        )
    return dict(held)


@sensitive_variables()
def _claims(request: HttpRequest, held: dict[str, Any]) -> dict[str, Any]:
    """Return the claims of the ID token, which is checked, and those of the userinfo endpoint."""
    with _told():
        metadata = _metadata()
        token = _client(request, metadata).fetch_token(
            metadata["token_endpoint"],
            grant_type="authorization_code",
            code=request.GET["code"],
            code_verifier=held["verifier"],
        )
        keys = KeySet.import_key_set(_get(metadata["jwks_uri"]))  # type: ignore[arg-type]
        read = jwt.decode(token["id_token"], keys, algorithms=ALGORITHMS)
        claims = CodeIDToken(
            read.claims,
            read.header,
            {
                "iss": {"essential": True, "value": settings.OIDC_ISSUER},
                "aud": {"essential": True, "value": settings.OIDC_CLIENT_ID},
                "sub": {"essential": True},
            },
            {
                "nonce": held["nonce"],
                "client_id": settings.OIDC_CLIENT_ID,
                "access_token": token["access_token"],
            },
        )
        claims.validate(now=int(clock.now().timestamp()), leeway=LEEWAY)
        found = dict(claims)
        if len(str(found["sub"])) > LONGEST_SUBJECT:
            raise ValueError("the subject is too long")
        if "userinfo_endpoint" in metadata and not {"email", _groups_claim()} <= set(found):
            more = _get(metadata["userinfo_endpoint"], token["access_token"])
            if more.get("sub") == found["sub"]:
                found = more | found
    return found


def _groups_claim() -> str:
    return str(settings.OIDC_GROUPS_CLAIM)


def _user_of(request: HttpRequest, claims: dict[str, Any]) -> User:
    """Return the user of this identity, with the role that the groups give.

    A new identity is linked to the user with the same verified address, if the operator allows
    it. Or a new user is made, if the operator allows that. Raise Forbidden otherwise.
    """
    groups = claims.get(_groups_claim(), [])
    groups = set(map(str, groups)) if isinstance(groups, list) else {str(groups)}
    is_admin = bool(groups & set(settings.OIDC_ADMIN_GROUPS))
    if settings.OIDC_USER_GROUPS and not (is_admin or groups & set(settings.OIDC_USER_GROUPS)):
        raise errors.Forbidden(_("Your groups may not use this server. Ask the operator."))
    with transaction.atomic():
        user = _linked(str(claims["sub"])) or _new_link(request, claims)
        if not user.is_active:
            raise errors.Forbidden(_("Your account is not active. Ask the operator."))
        if settings.OIDC_ADMIN_GROUPS and (user.is_staff, user.is_superuser) != (is_admin,) * 2:
            user.is_staff = user.is_superuser = is_admin
            user.save(update_fields=["is_staff", "is_superuser"])
            _note(request, user, "user.role_changed", is_staff=is_admin)
    return user


def _linked(subject: str) -> User | None:
    found = ExternalIdentity.objects.filter(issuer=settings.OIDC_ISSUER, subject=subject)
    identity = found.select_related("user").first()
    return identity.user if identity else None


def _new_link(request: HttpRequest, claims: dict[str, Any]) -> User:
    email = claims.get("email")
    if not isinstance(email, str) or "@" not in email or claims.get("email_verified") is not True:
        raise errors.Forbidden(
            _(
                "The provider did not say that your e-mail address is verified, so no "
                "account is linked. Ask the operator."
            )
        )
    user = User.objects.named(email).first()
    if user and not settings.OIDC_LINK_BY_EMAIL:
        raise errors.Forbidden(
            _(
                "There is an account with your address, and it is not linked to the "
                "provider. Ask the operator to set OIDC_LINK_BY_EMAIL."
            )
        )
    if not user and not settings.OIDC_CREATE_USERS:
        raise errors.Forbidden(_("You have no account here. Ask the operator."))
    try:
        with transaction.atomic():
            if not user:
                name = str(claims.get("preferred_username") or claims.get("name") or "")[:64]
                language = translation.get_language_from_request(request)
                user = User.objects.create_user(email, name=name, language=language)
                _note(request, user, "user.registered", issuer=settings.OIDC_ISSUER)
            identity = {"issuer": settings.OIDC_ISSUER, "subject": str(claims["sub"])}
            ExternalIdentity.objects.create(user=user, **identity)
    except IntegrityError:  # another request did it at the same moment
        raise entering.over() from None
    _note(request, user, "user.linked", **identity)
    return user


def _note(request: HttpRequest, user: User, action: str, **detail: Any) -> None:
    audit.record(user, user.email, action, f"user:{user.pk}", audit.ip_of(request), **detail)


def _refuse_stale(request: HttpRequest, user: User, claims: dict[str, Any]) -> None:
    """Raise Unauthorized unless the provider says that it asked the same person just now."""
    if user != request.user:
        raise errors.Unauthorized(_("The provider signed in another person. Sign out first."))
    asked_at = claims.get("auth_time")
    age = clock.now().timestamp() - (asked_at if isinstance(asked_at, int | float) else 0)
    if not -LEEWAY <= age <= FRESH:
        raise errors.Unauthorized(
            _("The provider did not say that it asked you again. Sign out there, and try again.")
        )


# --- What the provider says ---


def _metadata() -> dict[str, Any]:
    """Return the provider's metadata. They are read again when they are too old."""
    issuer = settings.OIDC_ISSUER
    metadata, good_until = _kept.get(issuer, ({}, 0.0))
    if clock.monotonic() < good_until:
        return metadata
    response = _asked(issuer.rstrip("/") + DISCOVERY)
    metadata = _json_of(response)
    if metadata.get("issuer") != issuer:
        raise ValueError("the metadata are those of another issuer")
    age = outgoing.age_of(response)
    age = MAX_AGE if age is None else min(max(age, MIN_AGE), MAX_AGE)
    _kept[issuer] = (metadata, clock.monotonic() + age)
    return metadata


def _get(address: str, token: str = "") -> dict[str, Any]:
    return _json_of(_asked(address, token))


def _asked(address: str, token: str = "") -> requests.Response:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    response = outgoing.session().get(address, headers=headers)
    response.raise_for_status()
    return response


def _json_of(response: requests.Response) -> dict[str, Any]:
    read = response.json()
    if not isinstance(read, dict):
        raise ValueError("the response is not a JSON object")
    return read


def _client(request: HttpRequest, metadata: dict[str, Any] | None = None) -> Client:
    methods = (metadata or {}).get("token_endpoint_auth_methods_supported", [])
    posts = methods and "client_secret_basic" not in methods
    return Client(
        outgoing.session(),
        client_id=settings.OIDC_CLIENT_ID,
        client_secret=settings.OIDC_CLIENT_SECRET,
        token_endpoint_auth_method="client_secret_post" if posts else "client_secret_basic",
        scope=settings.OIDC_SCOPES,
        redirect_uri=request.build_absolute_uri(reverse("openid-back")),
        code_challenge_method="S256",
    )


@contextmanager
def _told() -> Iterator[None]:
    """Turn what goes wrong at the provider into Unavailable or Unauthorized. The log has more."""
    try:
        with clock.limit(settings.CALL_LIMIT):
            yield
    except requests.RequestException as exc:
        log.warning("openid.unreachable", error=type(exc).__name__)
        raise errors.Unavailable(
            _("The OpenID provider could not be asked. Try again, or sign in with the password.")
        ) from None
    except (AuthlibBaseError, JoseError, ValueError, KeyError, TypeError) as exc:
        log.warning("openid.refused", error=type(exc).__name__)
        raise errors.Unauthorized(
            _("The OpenID provider's answer is not valid. Try again, or ask the operator.")
        ) from None
