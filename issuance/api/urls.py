from rest_framework.routers import SimpleRouter

from authorities.api import AccountViewSet, PrivateCAViewSet
from certctrl.api import OwnedRouter, owned_paths
from issuance.api.drills import DrillViewSet
from issuance.api.views import CertificateViewSet

router = OwnedRouter()
router.register("certificates", CertificateViewSet)
router.register("acme-accounts", AccountViewSet)
router.register("cas", PrivateCAViewSet)
staff = SimpleRouter(trailing_slash=False, use_regex_path=False)
staff.register("drills", DrillViewSet)
urlpatterns = [
    *router.urls,
    *staff.urls,
    *owned_paths("acme-accounts/<id:acme_account_id>/certificates", CertificateViewSet, {"get": "list"}),
    *owned_paths("certificates/<id:pk>/issues/history", CertificateViewSet, {"get": "issues"}),
    *owned_paths("certificates/<id:pk>/histories", CertificateViewSet, {"get": "issues"}),
]
