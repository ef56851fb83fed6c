"""Paths of the API of certificates, rate limits and drills."""

from django.urls import path
from rest_framework.routers import SimpleRouter

from certctrl.api import OwnedRouter, owned_paths
from issuance.api.assignments import AssignmentViewSet, DeploymentViewSet, KeyAssignViewSet
from issuance.api.bulk import BulkViewSet, LabelViewSet
from issuance.api.drills import DrillViewSet
from issuance.api.limits import AccountLimitsViewSet, LimitsViewSet
from issuance.api.materials import MaterialsView, OwnCAView, OwnCertificateView
from issuance.api.private_issue import PrivateIssueViewSet
from issuance.api.probes import ProbeViewSet
from issuance.api.reports import NotifyView
from issuance.api.rollouts import DeploymentListViewSet
from issuance.api.summary import SummaryViewSet
from issuance.api.views import CertificateViewSet

router = OwnedRouter()
router.register("certificates", CertificateViewSet)
staff = SimpleRouter(trailing_slash=False, use_regex_path=False)
staff.register("drills", DrillViewSet)
own_certificate = "devices/self/certificates/<id:certificate_id>"
on_device = "devices/<id:pk>/certificates"
urlpatterns = [
    *router.urls,
    path(own_certificate, OwnCertificateView.as_view()),
    path(f"{own_certificate}/deploy-materials", MaterialsView.as_view()),
    path(f"{own_certificate}/bundle", MaterialsView.as_view()),
    path("devices/self/cas/<id:ca_id>/bundle", OwnCAView.as_view()),
    *owned_paths(on_device, DeploymentViewSet, {"get": "certificates", "post": "assign"}),
    *owned_paths(
        f"{on_device}/<id:certificate_id>",
        DeploymentViewSet,
        {"get": "certificate", "delete": "unassign"},
    ),
    *owned_paths(f"{on_device}/<id:certificate_id>/bundle", DeploymentViewSet, {"get": "bundle"}),
    *owned_paths("devices/<id:pk>/cas", DeploymentViewSet, {"get": "cas", "post": "trust"}),
    *owned_paths("devices/<id:pk>/cas/<id:ca_id>", DeploymentViewSet, {"delete": "distrust"}),
    *owned_paths("devices/<id:pk>/cas/<id:ca_id>/bundle", DeploymentViewSet, {"get": "ca_bundle"}),
    *owned_paths("certificates/<id:pk>/devices", AssignmentViewSet, {"get": "devices"}),
    *owned_paths("certificates/<id:pk>/tags", AssignmentViewSet, {"get": "tags"}),
    *owned_paths("certificates/<id:pk>/labels", LabelViewSet, {"put": "update"}),
    *owned_paths("labels", LabelViewSet, {"get": "list"}),
    *owned_paths("certificates/bulk", BulkViewSet, {"post": "create"}),
    *owned_paths("certificates/<id:pk>/assign", AssignmentViewSet, {"post": "assign"}),
    *owned_paths("certificates/<id:pk>/unassign", AssignmentViewSet, {"post": "unassign"}),
    *owned_paths("certificate-assign", KeyAssignViewSet, {"post": "create"}),
    *staff.urls,
    *owned_paths("deployments", DeploymentListViewSet, {"get": "list"}),
    *owned_paths("summary", SummaryViewSet, {"get": "list"}),
    path("devices/self/notify", NotifyView.as_view()),
    *owned_paths("acme-accounts/<id:pk>/limits", AccountLimitsViewSet, {"get": "limits"}),
    *owned_paths("limits", LimitsViewSet, {"get": "list"}),
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
