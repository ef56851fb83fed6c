"""Every path of the server. No trailing slashes in the API."""

from importlib.util import find_spec

from django.contrib import admin
from django.urls import URLPattern, URLResolver, include, path
from django.views.generic import RedirectView
from drf_spectacular.views import SpectacularAPIView, SpectacularSwaggerView

from accounts.urls import auth_urlpatterns
from certctrl import schema
from certctrl.health import Health

handler400 = "certctrl.errorshape.bad_request"
handler404 = "certctrl.errorshape.not_found"
handler500 = "certctrl.errorshape.server_error"

API = ["accounts.urls"] + [name for name in ("dnsproviders.urls", "issuance.api.urls") if find_spec(name)]

urlpatterns: list[URLPattern | URLResolver] = [
    path("", RedirectView.as_view(url="/admin/")),
    path("admin/", admin.site.urls),
    path("health", Health.as_view()),
    path("auth", include(auth_urlpatterns)),
    path("apiv1/schema", SpectacularAPIView.as_view(custom_settings=schema.SETTINGS), name="schema"),
    path("apiv1/docs", SpectacularSwaggerView.as_view(url_name="schema")),
    *(path("apiv1/", include(name)) for name in API),
]
