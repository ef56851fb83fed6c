from django.urls import path

from certctrl.api import OwnedRouter
from dnsproviders.api import CatalogView, DnsCredentialViewSet

router = OwnedRouter()
router.register("dns-providers", DnsCredentialViewSet)
urlpatterns = [path("dns/providers/catalog", CatalogView.as_view()), *router.urls]
