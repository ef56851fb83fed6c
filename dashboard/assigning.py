"""The devices, tags and probes on the page of a certificate, with their buttons."""

from collections.abc import Mapping, Sequence
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponseRedirect
from django.urls import reverse
from django.utils.dates import WEEKDAYS_ABBR
from django.utils.translation import gettext as _

from certctrl import errors
from dashboard.changing import seen_by
from dashboard.devices import deployment_row, tags_of
from dashboard.page import Page, count, curl, number
from devices.models import Device
from devices.serializers import TagField
from issuance import services
from issuance.api import probes as api
from issuance.api import requests, rollouts
from issuance.models import Certificate, Deployment, Issuance

MOST_SUGGESTED = 200  # devices that the form knows by name
DAYS = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


def facts(certificate: Certificate, deployments: Sequence[Deployment]) -> dict[str, Any]:
    """Return what the band of devices shows. Each deployment has `opens`."""
    active = Device.objects.filter(owner=certificate.owner_id, status=Device.Status.ACTIVE)
    window = certificate.install_window or {}
    probes = list(certificate.probes.order_by("-pk"))
    for each in probes:
        each.certificate = certificate
    return {
        "deployment_rows": [deployment_row(each) for each in deployments],
        "deployment_counts": rollouts.counts(certificate),
        "assigned_tags": list(certificate.tags.order_by("tag")),
        "known_tags": tags_of(certificate.owner_id),
        "known_devices": list(active.order_by("-pk").only("name", "public_id")[:MOST_SUGGESTED]),
        "probes": probes,
        "probed": probed(certificate),
        "window": window,
        "window_days": [
            (day, WEEKDAYS_ABBR[number], day in (window.get("days") or DAYS))
            for number, day in enumerate(DAYS)
        ],
    }


def probed(certificate: Certificate) -> str:
    """Return an address that may serve it, as an example. A wildcard is no address."""
    return certificate.domain.replace("*.", "www.", 1)


def curls(request: HttpRequest, certificate: Certificate) -> dict[str, str]:
    url = request.build_absolute_uri(
        f"{settings.URL_PREFIX}/apiv1/me/certificates/{certificate.pk}"
    )
    window = {"start": "22:00", "end": "04:00", "timezone": "UTC"}
    probe = {"address": probed(certificate), "daily": True}
    return {
        "assign": curl(f"{url}/assign", "POST", {"tag": "web"}),
        "rollout": curl(url, "PUT", {"rollout": "canary", "install_window": window}),
        "probe": curl(f"{url}/probe", "POST", probe),
    }


class Assigning(Page):
    """The buttons of that band. Each is a `do_…` of the certificate's page."""

    def do_assign(self, certificate: Certificate) -> HttpResponseRedirect | None:
        """Assign it to a device, by name, public id or id, or to each device with a tag."""
        sent = self.request.POST
        if tag := sent.get("tag", "").strip():
            issuance = services.assign_to_tag(certificate, TagField().run_validation(tag))
        else:
            issuance = services.assign(certificate, self.device(sent.get("device", "").strip()))
        return self.assigned(issuance)

    def assigned(self, issuance: Issuance | None) -> HttpResponseRedirect | None:
        if issuance:
            return HttpResponseRedirect(
                reverse("attempt", args=[issuance.certificate_id, issuance.pk])
            )
        messages.success(self.request, _("The certificate is assigned."))
        return None

    def device(self, asked: str) -> Device:
        if not asked:
            raise errors.Invalid(_("Name a device, or a tag."))
        rows = Device.objects.filter(owner=self.owner).order_by("status", "-pk")
        named = rows.filter(name=asked) | rows.filter(public_id=asked.lower())
        if pk := number(asked):
            named |= rows.filter(pk=pk)
        found = named.first()
        if not found:
            raise errors.Invalid(_("You have no device %(name)s.") % {"name": asked})
        return found

    def do_unassign(self, certificate: Certificate) -> None:
        sent = self.request.POST
        if tag := sent.get("tag", ""):
            services.unassign_from_tag(certificate, tag)
        else:
            services.unassign(certificate, self.device(sent.get("device", "")))
        messages.success(self.request, _("The certificate is no longer assigned there."))

    def do_rollout(self, certificate: Certificate) -> None:
        sent = self.request.POST
        window = None
        if sent.get("start") or sent.get("end"):
            window = {name: sent.get(name, "") for name in ("start", "end")}
            window["timezone"] = sent.get("timezone", "").strip() or "UTC"
            days = [day for day in DAYS if day in sent.getlist("days")]
            if 0 < len(days) < len(DAYS):
                window |= {"days": days}  # type: ignore[dict-item]
        body: Mapping[str, Any] = {"rollout": sent.get("rollout", ""), "install_window": window}
        given = requests.CertificateChange(partial=True).run_validation(body)
        seen = seen_by(self.request)
        services.update_certificate(certificate, given["columns"], seen=seen)
        messages.success(self.request, _("The next version follows these rules."))

    def do_probe(self, certificate: Certificate) -> None:
        sent = self.request.POST
        count(api.ProbeThrottle(), self.request, self)
        body = {"address": sent.get("address", "").strip(), "port": sent.get("port") or 443}
        body |= {"starttls": sent.get("starttls", "")}
        given = api.ProbeRequest().run_validation(body)
        is_daily = bool(sent.get("daily"))
        probe = services.probe_now(certificate, api.target_of(certificate, given), daily=is_daily)
        if probe.error_what:
            messages.warning(self.request, f"{probe}: {probe.error_what}")
        elif probe.shows_current:
            what = _("%(address)s serves the version in use.") % {"address": probe}
            messages.success(self.request, what)
        else:
            what = _("%(address)s serves another certificate, with the serial number %(serial)s.")
            messages.warning(self.request, what % {"address": probe, "serial": probe.serial})

    def do_forget_probe(self, certificate: Certificate) -> None:
        pk = number(self.request.POST.get("probe", "")) or 0
        probe = certificate.probes.filter(pk=pk).first()
        if not probe:
            raise errors.NotFound(_("There is no such object, or it is not yours."))
        services.forget_probe(probe)
        messages.success(
            self.request, _("%(address)s is not probed any more.") % {"address": probe}
        )
