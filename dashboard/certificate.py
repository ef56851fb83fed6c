"""One certificate: its versions, its key, its attempts, and what can be done with it."""

import io
import re
import zipfile
from collections.abc import Callable, Mapping
from itertools import zip_longest
from typing import Any

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.http.response import HttpResponseBase
from django.urls import reverse
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from accounts import audit
from authorities import pki
from certctrl import clock, errors, outward
from certctrl.errorshape import refusal_of
from dashboard import assigning, changing, drawing
from dashboard.assigning import Assigning
from dashboard.changing import Changing
from dashboard.conditions import (
    Condition,
    condition_of,
    condition_of_attempt,
    note_attempts,
    said,
    steps_done,
)
from dashboard.page import ALL, FORM_KEY, Page, count, curl, need_fresh_login, show
from issuance import preflight, services
from issuance.api import preflight as throttles
from issuance.api import views
from issuance.models import Certificate, CertificateVersion, Issuance, Label, digest
from issuance.services import Idempotency

MOST_VERSIONS = 8
MOST_ATTEMPTS = 20
MOST_DEVICES = 100
# The reasons for a revocation, as RFC 5280 names them, with their meaning.
REASONS = {
    "superseded": gettext_lazy("another certificate replaces it"),
    "keyCompromise": gettext_lazy("somebody else may have the key"),
    "cessationOfOperation": gettext_lazy("the names are no longer in use"),
    "affiliationChanged": gettext_lazy("the organization or the owner of the names has changed"),
}
# Which server wants which file. The names of servers are not translated.
SERVERS = (
    ("nginx, Apache, Caddy, Postfix, Dovecot", "fullchain.pem + private.key"),
    ("HAProxy", gettext_lazy("fullchain.pem + private.key, in one file")),
    ("Java, Tomcat, Windows, IIS, Exchange", "bundle.pfx"),
)
FILES = {
    "fullchain.pem": "application/x-pem-file",
    "certificate.pem": "application/x-pem-file",
    "chain.pem": "application/x-pem-file",
    "certificate.der": "application/pkix-cert",
}


def certificate_of(page: Page, pk: int) -> Certificate:
    """Return a certificate of the person who is signed in. Raise NotFound."""
    rows = services.of_owner(page.owner).filter(pk=pk).select_related(*RELATED)
    found = list(rows.defer("current__chain_pem")[:1])
    if not found:
        raise errors.NotFound(_("You have no certificate %(id)d.") % {"id": pk})
    note_attempts(found)
    return found[0]


RELATED = (
    "account",
    "credential",
    "fallback_account",
    "owner",
    "current__key",
    "current__renewal_info",
)


class CertificatePage(Page):
    def get(self, request: HttpRequest, pk: int) -> HttpResponse:
        kept = {name: values[0] for name, values in self.kept_fields().items() if values}
        tried = kept.get("tried", "")
        return self.page(certificate_of(self, pk), tried=tried, typed=kept if tried else None)

    def page(
        self,
        certificate: Certificate,
        status: int = 200,
        typed: Mapping[str, str] | None = None,
        **facts: Any,
    ) -> HttpResponse:
        recent = certificate.versions.order_by("-pk").defer("chain_pem")
        versions = list(recent.select_related("renewal_info")[:MOST_VERSIONS])[::-1]
        attempts = list(certificate.issuances.order_by("-pk").defer("csr_pem")[: MOST_ATTEMPTS + 1])
        key = certificate.current.key if certificate.current else None
        wraps = list(key.wraps.order_by("pk")) if key else []
        recipients = {each.recipient_key_id for each in wraps}
        deployments = certificate.deployments.select_related("device", "wanted")
        devices = list(deployments.defer("wanted__chain_pem").order_by("device_id")[:MOST_DEVICES])
        for each in devices:
            each.certificate = certificate
            each.opens = each.device.key_id in recipients  # type: ignore[attr-defined]
        lanes = drawing.Lanes([each[0] for each in drawn(certificate, versions)], clock.now())
        condition = condition_of(certificate)
        context = {
            "here": "certificates",
            "certificate": certificate,
            "condition": condition,
            "is_revoked": bool(certificate.current and certificate.current.revoke_asked_at),
            "said": said(condition.note),
            "open_attempt": Issuance.objects.open_of(certificate),
            "axis": lanes.axis(),
            "lanes": [
                (version, lanes.lane(drawing_of, label))
                for drawing_of, version, label in drawn(certificate, versions)
            ],
            "why_then": why_then(certificate),
            "key": key,
            "wraps": wraps,
            "devices": devices,
            "attempts": [attempt_row(each) for each in attempts[:MOST_ATTEMPTS]],
            "more_attempts": len(attempts) > MOST_ATTEMPTS,
            "labels": sorted(each.name for each in certificate.labels.all()),
            "longest_labels": (Label.LONGEST + 2) * services.MOST_LABELS,
            "servers": SERVERS,
            "reasons": REASONS.items(),
            "curls": curls(self.request, certificate),
            "files": FILES,
            **assigning.facts(certificate, devices),
            **changing.facts(certificate, typed if facts.get("tried") == "settings" else None),
            "chosen_policy": (typed or {}).get("policy") or certificate.key_policy,
            **facts,
        }
        return show(self.request, "certificate.html", context, status=status)


def drawn(
    certificate: Certificate, versions: list[CertificateVersion]
) -> list[tuple[drawing.Version, CertificateVersion, str]]:
    """Return each version with its drawing and the drawing's words, oldest first."""
    found = []
    for version, successor in zip_longest(versions, versions[1:]):
        is_current = version.pk == certificate.current_id
        replaced_at = successor.not_before if successor else None
        renews = certificate.renew_at if is_current else replaced_at
        info = getattr(version, "renewal_info", None)
        window = None
        if is_current and info and info.window_start and info.window_end:
            window = (info.window_start, info.window_end)
        shape = drawing.Version(
            version.not_before, version.not_after, renews, not is_current, window
        )
        label = _("from %(begin)s to %(end)s") % {
            "begin": f"{version.not_before:%Y-%m-%d}",
            "end": f"{version.not_after:%Y-%m-%d}",
        }
        found.append((shape, version, label))
    return found


def why_then(certificate: Certificate) -> str:
    """Return why the certificate renews when it does."""
    info = getattr(certificate.current, "renewal_info", None)
    if certificate.failures:
        return _("the next try after a failure")
    if not certificate.renew_at:
        return ""
    if info and info.moment and info.moment == certificate.renew_at:
        return _("a time in the window that the CA suggests")
    if certificate.renew_days_before:
        return _("%(days)d days before the end, as you set it") % {
            "days": certificate.renew_days_before
        }
    if info and info.moment and info.moment > certificate.renew_at:
        return _("when a sixth of the life is left, because the window of the CA is later")
    return _("when a third of the life is left, or half of a life under ten days")


def reason_word(issuance: Issuance) -> str:
    words = {
        Issuance.Reason.NEW: _("the first"),
        Issuance.Reason.RENEWAL: _("renewal"),
        Issuance.Reason.MANUAL: _("by hand"),
    }
    return words.get(Issuance.Reason(issuance.reason), issuance.reason)


def attempt_row(issuance: Issuance) -> dict[str, Any]:
    condition: Condition = condition_of_attempt(issuance)
    done = 6 if issuance.state == Issuance.State.ISSUED else 0
    if issuance.is_open:
        done = steps_done(issuance)
    kind = condition.kind if condition.kind in ("goes", "waits", "fails") else ""
    return {
        "attempt": issuance,
        "condition": condition,
        "reason": reason_word(issuance),
        "took": (issuance.ended_at or clock.now()) - issuance.created_at,
        "six": drawing.six(done, kind, _("%(done)d of 6 steps") % {"done": done})
        if issuance.is_open or done
        else "",
    }


def curls(request: HttpRequest, certificate: Certificate) -> dict[str, str]:
    me = request.build_absolute_uri(f"{settings.URL_PREFIX}/apiv1/me")
    url = f"{me}/certificates/{certificate.pk}"
    return {
        "renew": curl(f"{url}/renew", "POST", {}),
        "preflight": curl(f"{url}/preflight", "POST", {}),
        "export_on": curl(url, "PUT", {"server_decrypt_export": True}),
        "export_off": curl(url, "PUT", {"server_decrypt_export": False}),
        "export": curl(f"{url}/export").replace("curl ", "curl -D headers.txt -o cert.zip ", 1),
        "renewal_on": curl(url, "PUT", {"auto_renew": True}),
        "renewal_off": curl(url, "PUT", {"auto_renew": False}),
        "policy": curl(url, "PUT", {"key_dist_policy": "HYBRID"}),
        "revoke": curl(f"{url}/revoke", "POST", {"reason": "superseded"}),
        "delete": curl(url, "DELETE"),
        "settings": curl(url, "PUT", {"renew_days_before": 20, "reuse_key": True}),
        "labels": curl(f"{url}/labels", "PUT", {"labels": ["prod"]}),
        "replace_key": "\n".join(
            [
                curl(f"{url}/revoke", "POST", {"reason": "keyCompromise"}),
                curl(f"{url}/renew", "POST", {}),
            ]
        ),
        "cancel": curl(f"{url}/cancel", "POST", {}),
        "events": curl(f"{url}/issue-result"),
        **assigning.curls(request, certificate),
    }


class CertificateAction(Assigning, Changing, CertificatePage):
    """A button of the certificate's page. Afterwards the page, or the new attempt, is shown."""

    http_method_names = ("get", "post")
    keeps = ALL

    def get(self, request: HttpRequest, pk: int, action: str = "") -> HttpResponse:
        """Lead to the page. The button was pressed after the session ended."""
        return HttpResponseRedirect(reverse("certificate", args=[pk]))

    def post(self, request: HttpRequest, pk: int, action: str) -> HttpResponseBase:
        certificate = certificate_of(self, pk)
        certificate.__dict__.pop("open_issuances", None)  # the action may start an attempt
        act: Callable[[Certificate], HttpResponseBase | None] = getattr(self, f"do_{action}")
        try:
            done = act(certificate)
        except Exception as exc:
            refused = refusal_of(exc)
            if not refused:
                raise
            if isinstance(refused, services.Stale):
                refused = changing.told(refused)
            return self.page(
                certificate_of(self, pk),
                status=refused.status,
                typed=request.POST.dict(),
                refused=refused,
                tried=action,
            )
        return done or HttpResponseRedirect(reverse("certificate", args=[pk]))

    def do_renew(self, certificate: Certificate) -> HttpResponseBase:
        key = self.request.POST.get(FORM_KEY, "")
        sent = Idempotency(f"page {key[:200]}", digest("renew", certificate.pk)) if key else None
        return to_attempt(services.issue(certificate, idempotency=sent))

    def do_cancel(self, certificate: Certificate) -> HttpResponseBase:
        return to_attempt(services.cancel(certificate))

    def do_preflight(self, certificate: Certificate) -> HttpResponseBase:
        if not certificate.account.is_private:
            count(throttles.PreflightThrottle(), self.request, self)
        with outward.for_owner(self.owner.pk):
            findings = preflight.run(certificate)
        return self.page(certificate, findings=findings, looked=True)

    def do_export_on(self, certificate: Certificate) -> None:
        need_fresh_login(self.request)
        services.update_certificate(certificate, {"server_decrypt_export": True})
        messages.success(self.request, _("You may download the key now."))

    def do_export_off(self, certificate: Certificate) -> None:
        services.update_certificate(certificate, {"server_decrypt_export": False})
        messages.success(self.request, _("The key cannot be downloaded any more."))

    def do_renewal_on(self, certificate: Certificate) -> None:
        services.update_certificate(certificate, {"auto_renew": True})
        messages.success(self.request, _("The certificate renews by itself again."))

    def do_renewal_off(self, certificate: Certificate) -> None:
        services.update_certificate(certificate, {"auto_renew": False})
        messages.success(self.request, _("The certificate is not renewed any more."))

    def do_policy(self, certificate: Certificate) -> None:
        policy = self.request.POST.get("policy", "")
        if policy not in dict(Certificate._meta.get_field("key_policy").choices or []):
            raise errors.Invalid(_("There is no such key policy. Choose one of the list."))
        need_fresh_login(self.request)
        seen = changing.seen_by(self.request)
        services.update_certificate(certificate, {"key_policy": policy}, seen=seen)
        messages.success(self.request, _("The key policy is changed."))

    def do_revoke(self, certificate: Certificate) -> None:
        self.refuse_other_name(certificate)
        reason = self.request.POST.get("reason", "")
        who = audit.actor_of(self.request)
        services.revoke(certificate, reason, who, audit.ip_of(self.request))
        messages.success(self.request, _("The revocation is on its way to the CA."))

    def do_replace_key(self, certificate: Certificate) -> HttpResponseBase:
        """Revoke the version in use for its key, and issue the next one with a new key."""
        self.refuse_other_name(certificate)
        services.refuse_issuance(certificate)
        who = audit.actor_of(self.request)
        services.revoke(certificate, "keyCompromise", who, audit.ip_of(self.request))
        return self.do_renew(certificate)

    def do_labels(self, certificate: Certificate) -> None:
        sent = self.request.POST
        now = {each.name for each in certificate.labels.all()}
        shown = set(listed(sent["shown"])) if "shown" in sent else now
        typed = set(listed(sent.get("labels", "")))
        # Labels that were changed elsewhere meanwhile stay as they are.
        services.set_labels(certificate, (now - (shown - typed)) | (typed - shown))
        messages.success(self.request, _("The labels are changed."))

    def do_delete(self, certificate: Certificate) -> HttpResponseBase:
        self.refuse_other_name(certificate)
        services.retire(certificate)
        messages.success(self.request, _("%(name)s is deleted.") % {"name": certificate.domain})
        return HttpResponseRedirect(reverse("certificates"))

    def do_export(self, certificate: Certificate) -> HttpResponseBase:
        need_fresh_login(self.request)
        count(views.ExportThrottle(), self.request, self)
        headers = services.head(certificate)
        content, password = services.bundle(
            certificate,
            actor=audit.actor_of(self.request),
            ip=audit.ip_of(self.request),
            user_agent=self.request.headers.get("User-Agent", ""),
        )
        whole = with_password(content, password)
        return HttpResponse(whole, content_type="application/zip", headers=headers)

    def refuse_other_name(self, certificate: Certificate) -> None:
        """Raise Invalid unless the person typed the name of the certificate."""
        typed = self.request.POST.get("name", "").strip().lower()
        if typed != certificate.domain:
            raise errors.Invalid(
                _("Type %(name)s to go on. Nothing was done.") % {"name": certificate.domain}
            )


ACTIONS = tuple(name.removeprefix("do_") for name in dir(CertificateAction) if name[:3] == "do_")


def listed(text: str) -> list[str]:
    """Return the labels in a field, where commas separate them."""
    return [" ".join(each.split()) for each in re.split(r"[,\uff0c\u3001]", text) if each.strip()]


def with_password(content: bytes, password: str) -> bytes:
    """Return the ZIP with the password of bundle.pfx, because no page shows a header.

    The ZIP has the key itself, so it holds no less than before.
    """
    out = io.BytesIO(content)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bundle-password.txt", f"{password}\n")
    return out.getvalue()


def to_attempt(issuance: Issuance) -> HttpResponseRedirect:
    return HttpResponseRedirect(reverse("attempt", args=[issuance.certificate_id, issuance.pk]))


class Download(Page):
    """A file of the current version, without the key."""

    def get(self, request: HttpRequest, pk: int, name: str) -> HttpResponse:
        certificate = certificate_of(self, pk)
        if not certificate.current or name not in FILES:
            raise errors.NotFound(_("There is no such file yet."))
        parts = pki.split_chain(certificate.current.chain_pem)
        content = {
            "fullchain.pem": parts.fullchain,
            "certificate.pem": parts.leaf,
            "chain.pem": parts.chain,
            "certificate.der": pki.to_der(parts.leaf),
        }[name]
        attachment = {"Content-Disposition": f'attachment; filename="{name}"'}
        return HttpResponse(content, content_type=FILES[name], headers=attachment)
