"""Paths: `auth_urlpatterns` is included at /auth, `urlpatterns` below /apiv1/."""

from django.urls import path

from certctrl.api import OwnedRouter, owned_paths
from devices import api, installapi

auth_urlpatterns = [
    path("/device", api.DeviceCodeView.as_view()),
    path("/refresh", api.RefreshView.as_view()),
]

router = OwnedRouter()
router.register("devices", api.DeviceViewSet)
router.register("enrolment-keys", api.EnrolmentKeyViewSet)
urlpatterns = [
    path("device/registration", api.RegistrationView.as_view()),
    path("devices/self/updates", api.UpdatesView.as_view()),
    *owned_paths(
        "devices/by-public-id/<str:device_public_id>",
        api.DeviceViewSet,
        {"get": "by_public_id"},
    ),
    path("devices/self/install-config", installapi.OwnInstallPlanView.as_view()),
    *owned_paths(
        "devices/<id:pk>/install-config",
        installapi.InstallPlanViewSet,
        {"get": "retrieve", "put": "update"},
    ),
    *owned_paths(
        "devices/<id:pk>/install-config-histories",
        installapi.InstallPlanViewSet,
        {"get": "histories"},
    ),
    *owned_paths(
        "devices/<id:pk>/install-config/restore",
        installapi.InstallPlanViewSet,
        {"post": "restore"},
    ),
    *owned_paths(
        "install-config-update/<str:device_public_id>",
        installapi.InstallPlanPatchViewSet,
        {"post": "create"},
    ),
    *router.urls,
]
