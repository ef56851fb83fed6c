"""Devices: their certificates, their install plans, and the keys that enrol a fleet."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.db.models import Count, Exists, F, OuterRef, Q, QuerySet
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables

from accounts import audit
from accounts.models import User
from certctrl import clock, errors
from certctrl.errorshape import refusal_of
from dashboard.conditions import Condition
from dashboard.page import ALL, SEPARATORS, Page, curl, need_fresh_login, number, rows_of, show
from dashboard.setup import DAY, SetupPage
from devices import installplans, services
from devices.models import Device, DeviceTag, EnrolmentKey
from devices.serializers import DeviceChange, EnrolmentKeyRequest
from issuance import services as certificates
from issuance.models import Certificate, CertificateVersion, Deployment
from keystore.models import Envelope, KeyWrap

MOST_CERTIFICATES = 100  # of one device on its page
MOST_BEHIND = 10  # certificates on devices that do not serve what they should
MOST_PLANS = 20  # versions of an install plan in its history
AWAY = timedelta(days=1)  # a device that has not been heard of for longer


# The columns of a deployment that tell its condition and what it serves.
BEHIND = (
    *("device__name", "device__public_id", "device__status"),
    *("certificate__domain", "certificate__key_policy", "certificate__current__serial"),
    *("wanted__serial", "wanted_at", "served_serial", "fetched_serial", "installed_serial"),
    *("failed_serial", "failure", "failure_what"),
)


@dataclass(frozen=True)
class Stage:
    """The version that a device has reached in one respect, and since when."""

    name: str
    serial: str
    at: Any
    is_wanted: bool


# --- the list ---


class DeviceList(Page):
    def get(self, request: HttpRequest) -> HttpResponse:
        asked = {name: request.GET.get(name, "")[:255] for name in ("q", "tag", "chip")}
        found = Device.objects.filter(owner=self.owner).prefetch_related("tags")
        if words := asked["q"].strip().replace("\0", ""):
            found = found.filter(Q(name__icontains=words) | Q(public_id=words.lower()))
        if tag := asked["tag"].replace("\0", ""):
            found = found.filter(tags__tag=tag)
        behind = certificates.not_serving(certificates.deployments_of(self.owner))
        if asked["chip"] == "behind":
            found = found.filter(pk__in=behind.values("device"))
        elif asked["chip"] == "revoked":
            found = found.filter(status=Device.Status.REVOKED)
        page = rows_of(request, found)
        context = {
            "here": "devices",
            "page": page,
            "rows": with_conditions(page.rows),
            "asked": asked,
            "is_filtered": any(asked.values()),
            **({} if any(asked.values()) or page.first else behind_of(self.owner)),
            "active": Device.objects.filter(owner=self.owner, status=Device.Status.ACTIVE).count(),
            "late": behind.values("device").distinct().count(),
            "tags": tags_of(self.owner.pk),
            "login": login_command(request),
        }
        return show(request, "devices.html", context)


def behind_of(owner: User) -> dict[str, Any]:
    """Return what devices serve that is not what they should, the newest assignments first."""
    behind = certificates.not_serving(certificates.deployments_of(owner))
    shown = with_opens(behind.select_related("device", "wanted", "certificate__current"))
    read = shown.only(*BEHIND).order_by("-pk")[:MOST_BEHIND]
    rows = [(each, deployment_condition(each)) for each in read]
    return {"behind": certificates.count_read(rows, MOST_BEHIND, behind), "behind_rows": rows}


def tags_of(owner: int) -> list[str]:
    """Return the tags of the owner's devices, at most 100."""
    tags = DeviceTag.objects.filter(device__owner=owner).order_by("tag")
    return list(tags.values_list("tag", flat=True).distinct()[:100])


def login_command(request: HttpRequest) -> str:
    """Return the commands of an installed agent that enrol a device at this server."""
    return f"certctrl-agent login {server_address(request)}\ncertctrl-agent run"


def server_address(request: HttpRequest) -> str:
    return request.build_absolute_uri(settings.URL_PREFIX or "/").rstrip("/")


def with_conditions(devices: Sequence[Device]) -> list[tuple[Device, Condition]]:
    """Return each device with its condition, by one query."""
    of_page = Deployment.objects.filter(device__in=devices, certificate__retired_at=None)
    rows = of_page.values("device").annotate(
        assigned=Count("pk"),
        served=Count("pk", filter=Q(served_serial=F("certificate__current__serial"))),
        failed=Count("pk", filter=Q(failed_serial=F("wanted__serial"))),
    )
    found: dict[int, Any] = {each["device"]: each for each in rows}
    return [(each, condition_of(each, **counts_of(found.get(each.pk, {})))) for each in devices]


def counts_of(found: Mapping[str, int]) -> dict[str, int]:
    return {name: found.get(name, 0) for name in ("assigned", "served", "failed")}


def condition_of(device: Device, assigned: int, served: int, failed: int) -> Condition:
    if device.status == Device.Status.REVOKED:
        return Condition("plain", "void", _("revoked"))
    if not assigned:
        return Condition("plain", "new", _("has no certificate"))
    word = _("serves %(served)d of %(assigned)d") % {"served": served, "assigned": assigned}
    if failed:
        return Condition("you", "you", word)
    note = _("not heard of lately") if device.last_seen_at < clock.now() - AWAY else ""
    if served < assigned:
        return Condition("waits", "differs", word, note)
    return Condition("plain", "ok", word, note)


# --- one device ---


def device_of(page: Page, pk: int) -> Device:
    """Return a device of the person who is signed in. Raise NotFound."""
    rows = Device.objects.filter(owner=page.owner, pk=pk)
    found = rows.select_related("key", "enrolled_with__api_key").prefetch_related("tags").first()
    if not found:
        raise errors.NotFound(_("You have no device %(id)d.") % {"id": pk})
    return found


class DevicePage(Page):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        return self.page(device_of(self, pk))

    def page(self, device: Device, status: int = 200, **facts: Any) -> HttpResponse:
        deployments = with_wraps(device)
        served = len([each for each in deployments if serves(each)])
        failed = len([each for each in deployments if fails(each)])
        plans = list(device.install_plans.order_by("-version")[:MOST_PLANS])
        version = number(self.request.GET.get("plan", ""))
        plan = next((each for each in plans if each.version == version), None)
        context = {
            "here": "devices",
            "device": device,
            "tags": sorted(each.tag for each in device.tags.all()),
            "condition": condition_of(device, len(deployments), served, failed),
            "rows": [deployment_row(each) for each in deployments],
            "plans": plans,
            "plan": plan or (plans[0] if plans else installplans.current(device)),
            "trusted": list(device.trusted_cas.select_related("private_ca").order_by("-pk")[:100]),
            "fingerprint": bytes(device.key.fingerprint).hex(),
            "curls": self.curls(device),
            "login": login_command(self.request),
            **facts,
        }
        return show(self.request, "device.html", context, status=status)

    def curls(self, device: Device) -> dict[str, str]:
        me = self.request.build_absolute_uri(f"{settings.URL_PREFIX}/apiv1/me")
        url = f"{me}/devices/{device.pk}"
        return {
            "assign": curl(f"{url}/certificates", "POST", {"cert_id": 1}),
            "change": curl(url, "PUT", {"name": str(device), "tags": ["web"]}),
            "deployments": curl(f"{me}/deployments?device={device.pk}"),
            "plan": curl(f"{url}/install-config"),
            "revoke": curl(url, "DELETE"),
        }


def with_opens(rows: QuerySet[Deployment]) -> QuerySet[Any]:
    """Add whether the device can open the key of the version that it wants."""
    wraps = KeyWrap.objects.filter(
        envelope=OuterRef("wanted__key"), recipient_key=OuterRef("device__key")
    )
    return rows.annotate(opens=Exists(wraps))


def with_wraps(device: Device) -> list[Deployment]:
    """Return the deployments of a device, as `with_opens` does."""
    rows = device.deployments.filter(certificate__retired_at=None).order_by("-pk")
    related = with_opens(rows.select_related("certificate__current", "wanted"))
    read = related.defer("certificate__current__chain_pem", "wanted__chain_pem")
    found = list(read[:MOST_CERTIFICATES])
    for each in found:
        each.device = device
    return found


def serves(row: Deployment) -> bool:
    current: CertificateVersion | None = row.certificate.current
    return bool(current and row.served_serial == current.serial)


def fails(row: Deployment) -> bool:
    return bool(row.wanted and row.failed_serial == row.wanted.serial)


def stages_of(row: Deployment) -> list[Stage]:
    """Return the versions that the device should have, fetched, installed and serves."""
    wanted = row.wanted.serial if row.wanted else ""
    found = (
        (_("wanted"), wanted, row.wanted_at),
        (_("fetched"), row.fetched_serial, row.fetched_at),
        (_("installed"), row.installed_serial, row.installed_at),
        (_("serves"), row.served_serial, row.served_at),
    )
    return [
        Stage(name, serial, at if serial else None, bool(serial) and serial == wanted)
        for name, serial, at in found
    ]


def deployment_condition(row: Deployment) -> Condition:
    """Return how far a certificate has come on a device. The row has `opens`."""
    if row.device.status == Device.Status.REVOKED:
        return Condition("plain", "void", _("the device is revoked"))
    if not row.certificate.current:
        return Condition("plain", "new", _("never issued"))
    if fails(row):
        word = _("rolled back") if row.failure == Deployment.Failure.ROLLED_BACK else _("failed")
        return Condition("you", "you", word, row.failure_what)
    if serves(row):
        return Condition("works", "works", _("serves it"))
    if not row.wanted or row.wanted_id != row.certificate.current_id:
        return Condition("waits", "waits", _("has its turn later"))
    is_sealed = row.certificate.key_policy != Envelope.Policy.MASTER_ONLY
    if is_sealed and not row.opens:  # type: ignore[attr-defined]
        return Condition("waits", "waits", _("waits for its key"))
    if row.installed_serial == row.wanted.serial:
        return Condition("waits", "differs", _("installed, and not served yet"))
    return Condition("waits", "waits", _("not fetched yet") if not fetched(row) else _("fetched"))


def fetched(row: Deployment) -> bool:
    return bool(row.wanted and row.fetched_serial == row.wanted.serial)


def deployment_row(row: Deployment) -> dict[str, Any]:
    policy = row.certificate.key_policy
    if policy == Envelope.Policy.MASTER_ONLY:
        key = _("the server opens it")
    else:
        key = _("it opens it") if row.opens else _("pending")  # type: ignore[attr-defined]
    return {
        "deployment": row,
        "condition": deployment_condition(row),
        "stages": stages_of(row),
        "key": key,
        "policy": policy,
    }


class DeviceAction(DevicePage):
    """A button of the device's page. Afterwards the page is shown."""

    keeps = ALL

    def get(self, request: HttpRequest, pk: int, action: str = "") -> HttpResponse:
        """Lead to the page. The button was pressed after the session ended."""
        return HttpResponseRedirect(reverse("device", args=[pk]))

    def post(self, request: HttpRequest, pk: int, action: str) -> HttpResponse:
        device = device_of(self, pk)
        act: Callable[[Device], HttpResponse | None] = getattr(self, f"do_{action}")
        try:
            done = act(device)
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused or isinstance(refused, errors.NotFound):
                raise
            return self.page(device_of(self, pk), status=refused.status, refused=refused)
        return done or HttpResponseRedirect(reverse("device", args=[pk]))

    def do_change(self, device: Device) -> None:
        sent = self.request.POST
        body = {
            "name": sent.get("name", ""),
            "tags": [each for each in SEPARATORS.split(sent.get("tags", "")) if each],
        }
        services.change_device(device, DeviceChange().run_validation(body))
        messages.success(self.request, _("The name and the tags are stored."))

    def do_assign(self, device: Device) -> HttpResponse | None:
        domain = self.request.POST.get("domain", "").strip().lower()
        rows = certificates.of_owner(self.owner).filter(domain=domain)
        certificate: Certificate | None = rows.order_by("-pk").first()
        if not certificate:
            raise errors.Invalid(_("You have no certificate for %(name)s.") % {"name": domain})
        if issuance := certificates.assign(certificate, device):
            return HttpResponseRedirect(reverse("attempt", args=[certificate.pk, issuance.pk]))
        messages.success(
            self.request,
            _("%(name)s is assigned to %(device)s.") % {"name": domain, "device": device},
        )
        return None

    def do_unassign(self, device: Device) -> None:
        pk = number(self.request.POST.get("certificate", "")) or 0
        certificates.unassign(certificates.assigned(device, pk), device)
        messages.success(self.request, _("The certificate is taken from the device."))

    def do_revoke(self, device: Device) -> None:
        if self.request.POST.get("name", "").strip() != str(device):
            what = _("Type %(name)s to go on. Nothing was done.") % {"name": device}
            raise errors.Invalid(what)
        services.revoke_device(device)
        messages.success(self.request, _("%(name)s is revoked.") % {"name": device})


ACTIONS = tuple(name.removeprefix("do_") for name in vars(DeviceAction) if name[:3] == "do_")


# --- keys for a fleet ---


class EnrolmentKeys(SetupPage):
    name = "enrolment-keys"
    template = "enrolment_keys.html"
    here = "devices"
    actions = ("revoke",)
    keeps = ("name", "tag", "uses", "days")

    def rows(self) -> QuerySet[Any]:
        rows = EnrolmentKey.objects.filter(api_key__owner=self.owner, api_key__revoked_at=None)
        return rows.select_related("api_key__owner")

    @sensitive_variables()
    def create(self) -> HttpResponse:
        """Show the page with the token and its command, this once."""
        sent = self.request.POST
        body: dict[str, Any] = {name: sent.get(name, "").strip() for name in ("name", "tag")}
        body["uses"] = sent.get("uses", "")
        body["expires_in_seconds"] = (number(sent.get("days", "")) or 0) * DAY
        given = EnrolmentKeyRequest().run_validation(body)
        need_fresh_login(self.request)
        ip = audit.ip_of(self.request)
        key, token = services.create_enrolment_key(self.owner, **given, ip=ip)
        command = f"CERTCTRL_API_KEY={token} certctrl-agent login {server_address(self.request)}"
        response = self.page({}, new_key=key, token=token, command=command)
        response["Cache-Control"] = "no-store"
        return response

    def do_revoke(self, row: EnrolmentKey) -> None:
        services.revoke_enrolment_key(row)
        self.done(_("%(name)s is revoked.") % {"name": row})
