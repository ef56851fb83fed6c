"""Every path of the server. API paths have no trailing slash."""

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

import accounts.urls
import devices.urls
from accounts.forms import login_page
from certctrl import schema  # noqa: F401  (registers the schemes of our credentials)
from certctrl.health import Health
from devices.pages import ApprovePage

handler400 = "certctrl.errorshape.bad_request"
handler404 = "certctrl.errorshape.not_found"
handler500 = "certctrl.errorshape.server_error"

API = (
    "accounts.urls",
    "dnsproviders.urls",
    "notices.urls",
    "devices.urls",
    "authorities.urls",
    "issuance.api.urls",
)

urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(pattern_name="admin:index")),
    path("admin/login/", login_page),
    path("admin/", admin.site.urls),
    path("device", ApprovePage.as_view()),
    path("health", Health.as_view()),
    path("auth", include(accounts.urls.auth_urlpatterns)),
    path("auth", include(devices.urls.auth_urlpatterns)),
    path("apiv1/schema", SpectacularAPIView.as_view(metadata_class=None), name="schema"),
    path("apiv1/docs", SpectacularSwaggerView.as_view(url_name="schema", metadata_class=None)),
    *(path("apiv1/", include(name)) for name in API),
]
