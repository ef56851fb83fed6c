"""Paths of the API of accounts and private CAs."""

from authorities.api import AccountViewSet, PrivateCAViewSet
from certctrl.api import OwnedRouter

router = OwnedRouter()
router.register("acme-accounts", AccountViewSet)
router.register("cas", PrivateCAViewSet)
urlpatterns = router.urls
