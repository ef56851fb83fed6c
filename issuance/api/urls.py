"""Paths of the API of certificates, rate limits and drills."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from certctrl.api import OwnedRouter, owned_paths
from issuance.api.drills import DrillViewSet
from issuance.api.limits import AccountLimitsViewSet
from issuance.api.private_issue import PrivateIssueViewSet
from issuance.api.probes import ProbeViewSet
from issuance.api.reports import NotifyView
from issuance.api.views import CertificateViewSet

router = OwnedRouter()
router.register("certificates", CertificateViewSet)
staff = SimpleRouter(trailing_slash=False, use_regex_path=False)
staff.register("drills", DrillViewSet)
urlpatterns = [
    *router.urls,
    *staff.urls,
    path("devices/self/notify", NotifyView.as_view()),
    *owned_paths("acme-accounts/<id:pk>/limits", AccountLimitsViewSet, {"get": "limits"}),
    *owned_paths("cas/<id:pk>/issue", PrivateIssueViewSet, {"post": "issue"}),
    *owned_paths("certificates/<id:pk>/probe", ProbeViewSet, {"post": "create"}),
    *owned_paths("certificates/<id:pk>/probes", ProbeViewSet, {"get": "list"}),
    *owned_paths("certificates/<id:pk>/probes/<id:probe_id>", ProbeViewSet, {"delete": "destroy"}),
    *owned_paths(
        "acme-accounts/<id:acme_account_id>/certificates", CertificateViewSet, {"get": "list"}
    ),
    *owned_paths("certificates/<id:pk>/issues/history", CertificateViewSet, {"get": "issues"}),
    *owned_paths("certificates/<id:pk>/histories", CertificateViewSet, {"get": "issues"}),
]
