from typing import Any

from django.contrib import admin, messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext_lazy
from unfold.decorators import action

from accounts import audit
from certctrl import dispatch
from certctrl.admin import ReadOnlyAdmin
from certctrl.sentences import sentence as _
from keystore import rotation, tasks
from keystore.masterkeys import MasterKeyProblem
from keystore.models import Envelope, KeyWrap, RecipientKey


@admin.register(Envelope)
class EnvelopeAdmin(ReadOnlyAdmin):
    list_display = ("uuid", "owner", "purpose", "policy", "created_at")
    list_filter = ("policy",)
    search_fields = ("uuid", "owner__email")
    indexed_search = ("uuid",)
    fields = ("uuid", "owner", "purpose", "policy", "created_at")
    list_select_related = ("owner",)


@admin.register(KeyWrap)
class KeyWrapAdmin(ReadOnlyAdmin):
    list_display = ("envelope", "master_key_id", "recipient_key", "created_at")
    search_fields = ("envelope__uuid", "master_key_id")
    indexed_search = ("envelope__uuid",)
    fields = ("envelope", "master_key_id", "recipient_key", "created_at")
    list_select_related = ("envelope", "recipient_key")
    actions_list = ("rotate_master_key",)

    @action(  # type: ignore[untyped-decorator]
        description=gettext_lazy("Rotate the master key"), permissions=["act"]
    )
    def rotate_master_key(self, request: HttpRequest) -> HttpResponse:
        will = _(
            "A new master key is put first in its file, and a worker wraps every data key with it."
            " Old keys stay in the file. Without a file, the data keys are wrapped with the first"
            " key of the settings. Back up the new key at once. A database without its master key"
            " is lost."
        )
        nothing: Any = self.model._default_manager.none()
        if asks := self.confirmed(request, nothing, "rotate_master_key", will):
            return asks
        try:
            key_id = rotation.start(audit.actor_of(request))
        except MasterKeyProblem as problem:
            self.message_user(request, problem.what, messages.ERROR)
        else:
            self._finish(request, key_id)
        return HttpResponseRedirect(reverse("admin:keystore_keywrap_changelist"))

    def _finish(self, request: HttpRequest, key_id: str) -> None:
        user: Any = request.user
        said = _(
            "Master key %(id)s wraps now. A worker wraps the older data keys with it. The audit log"
            " says when it is done.",
            id=key_id,
        )
        if not dispatch.nudge(tasks.finish_rotation, user.pk):
            said = _(
                "Master key %(id)s wraps now. The workers cannot be reached, so the older data keys"
                " are not wrapped with it yet. Rotate again later. No second key is made.",
                id=key_id,
            )
        self.message_user(request, said, messages.SUCCESS)


@admin.register(RecipientKey)
class RecipientKeyAdmin(ReadOnlyAdmin):
    list_display = ("id", "owner", "created_at", "retired_at")
    search_fields = ("owner__email",)
    fields = ("owner", "created_at", "retired_at")
    list_select_related = ("owner",)
