"""Every path of the server. API paths have no trailing slash."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularSwaggerView

import dashboard.urls
import devices.urls
import signin.urls
from certctrl.health import Health
from certctrl.schema import SchemaView
from dashboard.signing import AdminSignIn

handler400 = "certctrl.errorshape.bad_request"
handler404 = "dashboard.faults.not_found"
handler500 = "dashboard.faults.server_error"

# Django tries a path with each pattern in turn. Agents and scripts ask most for the first two.
API = (
    "devices.urls",
    "issuance.api.urls",
    "accounts.urls",
    "dnsproviders.urls",
    "notices.urls",
    "authorities.urls",
)

urlpatterns: list[URLPattern | URLResolver] = [
    *(path("apiv1/", include(name)) for name in API),
    path("admin/login/", AdminSignIn.as_view()),
    # The admin's own form counts no tries of the old password, and writes no audit event.
    path("admin/password_change/", RedirectView.as_view(pattern_name="settings")),
    # No page leads to the library's search. It caches objects, and our cache takes JSON alone.
    path("admin/search/", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/", admin.site.urls),
    path("health", Health.as_view()),
    path("auth", include(signin.urls.urlpatterns)),
    path("auth", include(devices.urls.auth_urlpatterns)),
    path("apiv1/schema", SchemaView.as_view(metadata_class=None), name="schema"),
    path(
        "apiv1/docs",
        SpectacularSwaggerView.as_view(url_name="schema", metadata_class=None),
        name="api-docs",
    ),
    *dashboard.urls.urlpatterns,
]
