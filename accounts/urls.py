"""Paths below /apiv1/."""

from django.urls import path

from accounts import auditapi, views
from certctrl.api import OwnedRouter, owned_paths

router = OwnedRouter()
router.register("audit-events", auditapi.AuditEventViewSet)
router.register("apikeys", views.ApiKeyViewSet)
router.register("views", views.SavedViewViewSet)
urlpatterns = [
    path("permissions/catalog", views.PermissionsCatalog.as_view()),
    *owned_paths("quotas", views.QuotaViewSet, {"get": "list"}),
    *router.urls,
]
