"""Find by name, for the command palette. Set the colours for browsers without scripts."""

from django.conf import settings
from django.db.models import F
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, JsonResponse
from django.urls import reverse

from accounts.services import local_path
from dashboard.page import THEMES, Page
from issuance import services
from issuance.services import Filter

MOST_FOUND = 8
YEAR = 365 * 86400  # seconds


class Find(Page):
    """The certificates whose names have the words, the soonest end first."""

    def get(self, request: HttpRequest) -> HttpResponse:
        words = request.GET.get("q", "").strip()[:255]
        rows = services.of_owner(self.owner)
        rows = services.found(rows, self.owner, Filter(words=words)) if words else rows.none()
        soonest = rows.order_by(F("expires_at").asc(nulls_last=True), "pk")
        found = soonest.values_list("pk", "domain")[:MOST_FOUND]
        certificates = [
            {"id": pk, "name": domain, "href": reverse("certificate", args=[pk])}
            for pk, domain in found
        ]
        return JsonResponse({"certificates": certificates})


class Theme(Page):
    """The colours: a cookie of this browser. A page with scripts sets it by itself."""

    needs_session = False

    def get(self, request: HttpRequest) -> HttpResponse:
        return HttpResponseRedirect(reverse("overview"))

    def post(self, request: HttpRequest) -> HttpResponse:
        theme = request.POST.get("theme", "")
        back = local_path(request.POST.get("next", ""))
        response = HttpResponseRedirect(back)
        path = settings.SESSION_COOKIE_PATH
        if theme in THEMES:
            response.set_cookie("theme", theme, max_age=YEAR, path=path, samesite="Lax")
        else:
            response.delete_cookie("theme", path=path, samesite="Lax")
        return response
