"""The base of every page: session, security headers and errors."""

import json
import re
import secrets
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any, cast
from urllib.parse import urlencode

import structlog
from django.conf import settings
from django.core.cache import cache
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views import View
from rest_framework.throttling import BaseThrottle

from accounts.models import User
from accounts.services import local_path, refuse_old_login
from certctrl import clock, errors
from certctrl.errorshape import error_headers, refusal_of, unexpected
from certctrl.health import standstill
from signin.entering import CodeNeeded

log = structlog.get_logger()

# No page has an inline script or style, and no page loads anything from another host.
SECURITY_POLICY = "; ".join(
    (
        "default-src 'none'",
        *(f"{kind} 'self'" for kind in ("script-src", "style-src", "img-src", "connect-src")),
        "form-action 'self'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
THEMES = ("light", "dark")
# Between the words in a field. Chinese keyboards have commas of their own.
SEPARATORS = re.compile(r"[\s,;\uff0c\uff1b\u3001]+")
FORM_KEY = "form_key"  # the field of a form that is the same when the form is sent twice
FORM_KEY_AGE = 86400  # seconds
KEPT = "kept_form"  # in the session: a form that was sent when its session had ended
MOST_KEPT = 64 * 1024  # characters of such a form
ALL = ("*",)
CSRF = "csrfmiddlewaretoken"
UNSEEN = (FORM_KEY, "page", "seen", "shown", "tried", "next")  # hidden fields of forms


class ConfirmFirst(Exception):
    """The action needs a fresh sign-in. `Page` leads to the page that asks for it, and back."""


class Page(View):
    """A page with a session. Set `needs_session` to False for a page without one."""

    needs_session = True
    # The fields of a form that a person does not have to type again after a new sign-in. ALL is for
    # forms without a secret.
    keeps: tuple[str, ...] = ()
    # Whether the address has only forms, and no page that shows their fields again.
    only_acts = False

    def dispatch(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        response = self.respond(request, *args, **kwargs)
        response["Content-Security-Policy"] = SECURITY_POLICY
        response.headers.setdefault("Cache-Control", "private, no-cache")
        return response

    def respond(self, request: HttpRequest, *args: Any, **kwargs: Any) -> HttpResponseBase:
        try:
            refuse_zero_bytes(request)
            if self.needs_session and not isinstance(request.user, User):
                return ask_to_sign_in(request, self.keeps)
            only_acts = self.only_acts or "action" in kwargs
            if request.method == "GET" and only_acts and (fields := self.kept_fields()):
                return offer_again(request, fields)
            return super().dispatch(request, *args, **kwargs)
        except ConfirmFirst:
            return ask_to_confirm(request, self.keeps)
        except CodeNeeded as needed:
            return ask_for_code(request, needed)
        except Exception as exc:
            return refused_page(request, refusal_of(exc) or unexpected(exc))

    @property
    def owner(self) -> User:
        return cast(User, self.request.user)

    def kept_fields(self) -> dict[str, list[str]]:
        """Return the form that was sent here without a session, once."""
        kept = self.request.session.get(KEPT)
        if not kept or kept["path"] != self.request.path:
            return {}
        del self.request.session[KEPT]
        return dict(kept["fields"])


@dataclass(frozen=True)
class Rows:
    """One page of a list, newest first, and the addresses of the first and the next page."""

    rows: list[Any]
    first: str
    following: str


def rows_of(request: HttpRequest, found: QuerySet[Any], size: int = 50) -> Rows:
    """Return the page after the id in `after`. The other parameters of the address stay."""
    after = number(request.GET.get("after", ""))
    ordered = found.order_by("-pk")
    page = list((ordered.filter(pk__lt=after) if after else ordered)[: size + 1])
    others = request.GET.copy()
    others.pop("after", None)
    following = ""
    if len(page) > size:
        following = f"?{urlencode([*others.items(), ('after', page[size - 1].pk)])}"
    return Rows(page[:size], f"?{others.urlencode()}" if after else "", following)


def number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else None


def refuse_zero_bytes(request: HttpRequest) -> None:
    """Raise Invalid for a zero byte in a form, which no database stores."""
    for _name, texts in request.POST.lists():
        if any("\0" in text for text in texts):
            raise errors.Invalid(_("A field has a zero byte. Type it again."))


def is_partial(request: HttpRequest) -> bool:
    """Return whether the request wants a part of a page."""
    return request.headers.get("HX-Request") == "true"


def show(
    request: HttpRequest, template: str, context: Mapping[str, Any] | None = None, status: int = 200
) -> HttpResponse:
    theme = request.COOKIES.get("theme", "")
    common = {
        "theme": theme if theme in THEMES else "system",
        "now": clock.now(),
        "api": request.build_absolute_uri(f"{settings.URL_PREFIX}/apiv1/me"),
        "languages": settings.LANGUAGES,
        "is_demo": settings.DEMO,
        "standstill": standstill,
        FORM_KEY: secrets.token_urlsafe(16),
    }
    facts = common | dict(context or {})
    response = render(request, f"dashboard/{template}", facts, status=status)
    refused = facts.get("refused")
    return with_headers(response, refused) if refused and status == refused.status else response


def refused_page(request: HttpRequest, refused: errors.ApiError) -> HttpResponse:
    """Return the page of an error. A part of a page is not replaced by it."""
    # The session cannot be read while the database is away.
    is_inside = refused.status < HTTPStatus.INTERNAL_SERVER_ERROR and isinstance(
        getattr(request, "user", None), User
    )
    template = "refused_inside.html" if is_inside else "refused.html"
    return show(request, template, {"refused": refused}, status=refused.status)


def with_headers(response: HttpResponse, refused: errors.ApiError) -> HttpResponse:
    for name, value in error_headers(refused).items():
        response[name] = value
    return response


def ask_to_sign_in(request: HttpRequest, keeps: tuple[str, ...]) -> HttpResponse:
    """Lead to the sign-in page, and back here after it. A form that was sent is kept."""
    back = request.get_full_path() if request.method == "GET" else form_path(request)
    if is_partial(request) and request.method == "POST":
        # The form stays as it is. Its button leads to the sign-in, and then the fields are kept.
        return HttpResponse(status=HTTPStatus.UNAUTHORIZED)
    if is_partial(request):
        here = request.headers.get("HX-Current-URL", "")
        path = "/" + here.split("://", 1)[-1].partition("/")[2]
        response = HttpResponse(status=HTTPStatus.NO_CONTENT)
        response["HX-Redirect"] = f"{reverse('sign-in')}?{urlencode({'next': path})}"
        return response
    if request.method != "POST":
        return HttpResponseRedirect(f"{reverse('sign-in')}?{urlencode({'next': back})}")
    fields = fields_of(request, keeps)
    kept = json.dumps(fields) if fields else ""
    context = {"next": back, "kept": kept if len(kept) <= MOST_KEPT else "", "ended": True}
    return show(request, "sign_in.html", context, status=HTTPStatus.UNAUTHORIZED)


def fields_of(request: HttpRequest, keeps: tuple[str, ...]) -> dict[str, list[str]]:
    """Return the fields of a form that may be kept."""
    names = [each for each in request.POST if keeps == ALL or each in keeps]
    return {each: request.POST.getlist(each) for each in names if each != CSRF}


def offer_again(request: HttpRequest, fields: Mapping[str, list[str]]) -> HttpResponse:
    """Show a form that arrived without a session. Its button sends it again."""
    typed = {name: ", ".join(values) for name, values in fields.items() if name not in UNSEEN}
    return show(request, "kept.html", {"fields": dict(fields), "typed": typed})


def need_fresh_login(request: HttpRequest) -> None:
    """Raise ConfirmFirst if the sign-in of this session is older than EXPORT_LOGIN_AGE."""
    try:
        refuse_old_login(request, settings.EXPORT_LOGIN_AGE)
    except errors.Forbidden:
        raise ConfirmFirst from None


def ask_to_confirm(request: HttpRequest, keeps: tuple[str, ...]) -> HttpResponse:
    """Lead to the page that asks for the password, and back to the form with its fields."""
    path = form_path(request)
    if fields := fields_of(request, keeps):
        keep(request, path, json.dumps(fields))
    query = urlencode({"next": path})
    return HttpResponseRedirect(f"{reverse('confirm')}?{query}", status=HTTPStatus.SEE_OTHER)


def ask_for_code(
    request: HttpRequest, needed: CodeNeeded, refused: errors.ApiError | None = None
) -> HttpResponse:
    """Return the page that asks for the code of the second factor. It holds the proof."""
    sent = request.POST if request.method == "POST" else request.GET
    context = {
        "proof": needed.proof,
        "next": local_path(needed.back or sent.get("next", "")),
        "kept": sent.get("kept", ""),
        "refused": refused,
    }
    status = refused.status if refused else HTTPStatus.OK
    response = show(request, "second_factor.html", context, status=status)
    response["Cache-Control"] = "no-store"
    return response


def form_path(request: HttpRequest) -> str:
    """Return the path of the page that has the form."""
    return local_path(request.POST.get("page") or request.path)


def keep(request: HttpRequest, path: str, kept: str) -> None:
    """Keep the fields of a form, as JSON, for the next visit of its page in this session."""
    try:
        fields = json.loads(kept[:MOST_KEPT])
    except ValueError:
        return
    if isinstance(fields, dict):
        texts = {
            str(name): [str(value) for value in values]
            for name, values in fields.items()
            if isinstance(values, list)
        }
        request.session[KEPT] = {"path": path, "fields": texts}


def count(throttle: BaseThrottle, request: HttpRequest, view: Any) -> None:
    """Count a request in a throttle of the API. Raise RateLimited when it is one too many."""
    if not throttle.allow_request(request, view):  # type: ignore[arg-type]
        pause = int(throttle.wait() or 60)
        what = _("Too many requests. Try again in %(seconds)d seconds.") % {"seconds": pause}
        raise errors.RateLimited(what, retry_after=pause)


def curl(url: str, method: str = "GET", body: dict[str, Any] | None = None) -> str:
    """Return the call of the API that does the same as a button."""
    parts = ["curl", *(("-X", method) if method != "GET" else ())]
    parts += ["-H", '"Authorization: Bearer $KEY"']
    if body is not None:
        given = shlex.quote(json.dumps(body))
        parts += ["-H", '"Content-Type: application/json"', "-d", given]
    return f"{' '.join(parts)} \\\n     {url}"


class FormKey:
    """Refuses a form that is sent twice. Use it as a context around the action.

    An action that fails may be sent again. When the cache is away, every form is accepted.
    """

    def __init__(self, request: HttpRequest) -> None:
        key = request.POST.get(FORM_KEY, "")
        self.key = f"form:{request.user.pk}:{key[:64]}" if key else ""

    def __enter__(self) -> None:
        if self.key and not self._add():
            raise errors.Conflict(_("This form was already sent. See the list for its result."))

    def _add(self) -> bool:
        try:
            return bool(cache.add(self.key, True, FORM_KEY_AGE))
        except Exception as exc:  # any error of the cache's client
            log.warning("form.uncounted", error=type(exc).__name__)
            return True

    def __exit__(self, kind: object, exc: object, traceback: object) -> None:
        if self.key and exc:
            try:
                cache.delete(self.key)
            except Exception as failed:  # any error of the cache's client
                log.warning("form.uncounted", error=type(failed).__name__)
