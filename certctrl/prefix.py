"""Serves below a path of the host (URL_PREFIX). Paths arrive whole, with the prefix."""

import re
from collections.abc import Callable

from django.conf import settings
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect

from certctrl import errors
from certctrl.errorshape import is_api, plain_response
from certctrl.jsonbody import printable
from certctrl.sentences import sentence as _

BELOW_ANOTHER = re.compile(r"(?P<prefix>/.+?)/(admin|apiv1|auth|health|static)(/.*)?")


class Prefix:
    """Refuses paths without the prefix, and explains how to configure the proxy.

    When a proxy strips the prefix, our links cannot lead back through it.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        prefix = settings.URL_PREFIX
        if prefix and request.path == prefix:
            return HttpResponseRedirect(f"{prefix}/")
        if prefix and not request.path.startswith(f"{prefix}/"):
            return plain_response(errors.NotFound(without_prefix(request.path)))
        response = self.get_response(request)
        if response.status_code != 404 or request.resolver_match or is_api(request):
            return response
        if below := BELOW_ANOTHER.fullmatch(request.path_info):
            return plain_response(errors.NotFound(below_another(below["prefix"])))
        return response


def without_prefix(path: str) -> str:
    return _(
        "The path %(path)s does not begin with %(url_prefix)s, the setting URL_PREFIX. A "
        "proxy must pass on the whole path. With nginx: `proxy_pass "
        "http://127.0.0.1:8080;`, without a slash or a path at its end.",
        path=printable(path),
        url_prefix=settings.URL_PREFIX,
    )


def below_another(prefix: str) -> str:
    here = settings.URL_PREFIX
    return _(
        "There is nothing at this path. See %(here)s/apiv1/docs. If a proxy offers this "
        "server below %(prefix)s, set URL_PREFIX=%(here)s%(prefix)s.",
        here=here,
        prefix=printable(prefix),
    )
