from certctrl.api import OwnedRouter, owned_paths
from notices.api import NoticeSettingsViewSet, NoticeTestViewSet, NoticeViewSet, WebhookViewSet

router = OwnedRouter()
router.register("notices", NoticeViewSet)
router.register("webhooks", WebhookViewSet)
urlpatterns = [
    *owned_paths("notice-settings", NoticeSettingsViewSet, {"get": "show", "put": "change"}),
    *owned_paths("notice-settings/code", NoticeSettingsViewSet, {"post": "send_code"}),
    *owned_paths("notice-settings/confirm", NoticeSettingsViewSet, {"post": "confirm"}),
    *owned_paths("notice-settings/test", NoticeTestViewSet, {"post": "create"}),
    *router.urls,
]
