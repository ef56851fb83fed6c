"""Paths: `auth_urlpatterns` is included at /auth, `urlpatterns` below /apiv1/."""

from django.urls import path

from accounts import auditapi, views
from certctrl.api import OwnedRouter, owned_paths

auth_urlpatterns = [
    path("", views.General.as_view()),
    path("/general", views.General.as_view()),
    path("/logout", views.Logout.as_view()),
    path("/status", views.LogInStatus.as_view()),
    path("/profile", views.Profile.as_view()),
]

router = OwnedRouter()
router.register("audit-events", auditapi.AuditEventViewSet)
router.register("apikeys", views.ApiKeyViewSet)
router.register("views", views.SavedViewViewSet)
urlpatterns = [
    path("permissions/catalog", views.PermissionsCatalog.as_view()),
    *owned_paths("quotas", views.QuotaViewSet, {"get": "list"}),
    *router.urls,
]
