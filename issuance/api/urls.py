from certctrl.api import OwnedRouter, owned_paths
from issuance.api.views import AccountViewSet, CertificateViewSet, PrivateCAViewSet

router = OwnedRouter()
router.register("certificates", CertificateViewSet)
router.register("acme-accounts", AccountViewSet)
router.register("cas", PrivateCAViewSet)
urlpatterns = [
    *router.urls,
    *owned_paths("acme-accounts/<id:acme_account_id>/certificates", CertificateViewSet, {"get": "list"}),
    *owned_paths("certificates/<id:pk>/issues/history", CertificateViewSet, {"get": "issues"}),
    *owned_paths("certificates/<id:pk>/histories", CertificateViewSet, {"get": "issues"}),
]
