"""The API of certificates and their attempts. A view parses, calls one service, and renders."""

from typing import Any, cast

from django.conf import settings
from django.db.models import Exists, OuterRef, QuerySet
from django.http import HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from drf_spectacular.utils import OpenApiParameter, extend_schema
from rest_framework import status
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.throttling import BaseThrottle
from rest_framework.viewsets import GenericViewSet

from accounts import audit
from accounts.permissions import need
from accounts.services import refuse_old_login
from authorities.api import ExchangePagination, ExchangeSerializer
from authorities.models import AcmeAccount, Exchange
from certctrl import outward
from certctrl.api import CREATED, NO_CONTENT, CountedThrottle, OwnedMixin, parsed
from certctrl.errors import Invalid, NotFound
from certctrl.sentences import sentence as _
from issuance import preflight, ratelimits, services
from issuance.api import parsing
from issuance.api.attempts import (
    AttemptSerializer,
    EventSerializer,
    HistorySerializer,
    IssueResultSerializer,
    StartedSerializer,
)
from issuance.api.bulk import FilterParameters, filter_of
from issuance.api.certificates import (
    CertificateSerializer,
    FullCertificateSerializer,
    IssuingSerializer,
)
from issuance.api.parsing import IDEMPOTENCY_KEY, idempotency
from issuance.api.preflight import (
    PreflightOfRequestSerializer,
    PreflightSerializer,
    PreflightThrottle,
)
from issuance.api.requests import (
    CertificateChange,
    CertificateRequest,
    IssueRequest,
    RevokeRequest,
)
from issuance.api.rollouts import counts
from issuance.challenges import delegation
from issuance.models import Certificate, Deployment, Issuance, open_attempts
from keystore.models import Envelope

DEVICE_REQUIRED = Envelope.Policy.DEVICE_REQUIRED
THE_CA_DECIDES = _(
    "validity_seconds has no effect at this CA. The CA sets the lifetime of a certificate."
)


# Kept, because making the fields of a serializer costs more than using them.
SHOWN = CertificateSerializer()


def shown(certificate: Certificate, issuance: Issuance | None) -> dict[str, Any]:
    """Return the certificate for the API, with the id of its attempt.

    For a private CA, `status` is the status of the attempt.
    """
    if issuance and issuance.is_open:
        certificate.open_issuances = [issuance]  # type: ignore[attr-defined]
    else:  # a private CA has issued it
        certificate.refresh_from_db()
    answer = dict(SHOWN.to_representation(certificate))
    if issuance:
        answer["issue_history_id"] = issuance.pk
    if issuance and certificate.account.is_private:
        answer["status"] = AttemptSerializer(issuance).data["status"]
    return answer


class ExportThrottle(CountedThrottle):
    scope = "export"
    rate = "60/hour"


class CertificateViewSet(
    OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[Certificate]
):
    queryset = Certificate.objects.filter(retired_at=None).select_related("current__renewal_info")
    serializer_class = CertificateSerializer
    obtype = "certificates"
    permissions = {
        "list": "read",
        "retrieve": "read",
        "create": "write",
        "update": "write",
        "destroy": "write",
        "issues": "read",
        "start": "issue",
        "issue_result": "read",
        "renew": "issue",
        "cancel": "issue",
        "revoke": "issue",
        "events": "read",
        "preflight": "issue",
        "preflight_of_request": "issue",
        "exchanges": "read",
        "export": "read",
    }

    def get_queryset(self) -> QuerySet[Certificate]:
        rows = super().get_queryset()
        if "acme_account_id" in self.kwargs:
            rows = rows.filter(account=self.kwargs["acme_account_id"])
        rows = rows.annotate(
            is_assigned=Exists(Deployment.objects.filter(certificate=OuterRef("pk")))
        )
        accounts = ("account", "current__account")
        if self.action == "list":  # many certificates have the same account
            rows = rows.prefetch_related(*accounts)
        else:
            rows = rows.select_related(*accounts)
        return cast("QuerySet[Certificate]", rows.prefetch_related(open_attempts(), "labels"))

    def get_object(self) -> Certificate:
        certificate: Certificate = super().get_object()
        certificate.__dict__.pop("open_issuances", None)  # the action may start an attempt
        return certificate

    def filter_queryset(self, queryset: QuerySet[Any]) -> QuerySet[Any]:
        if self.action != "list":
            return super().filter_queryset(queryset)
        return services.found(queryset, self.owner, filter_of(self.request.query_params))

    @extend_schema(parameters=[FilterParameters])
    def list(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        account = self.kwargs.get("acme_account_id")
        if account and not AcmeAccount.objects.filter(pk=account, owner=self.owner).exists():
            raise NotFound(
                _("You have no ACME account %(account)s. Check the id.", account=account)
            )
        return super().list(request, *args, **kwargs)

    @extend_schema(
        request=CertificateRequest, parameters=[IDEMPOTENCY_KEY], responses={201: IssuingSerializer}
    )
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Create a certificate.

        With `domain`, it is issued at once. With `domain_name`, only the record is made.
        """
        given = parsed(CertificateRequest, request)
        if given["issues_at_once"]:
            need(request, self.obtype, None, "issue")
        spec = parsing.spec_of(self.owner, given)
        certificate, issuance = services.create_certificate(
            self.owner, spec, issue=given["issues_at_once"], idempotency=idempotency(request)
        )
        return Response(shown(certificate, issuance), status=CREATED)

    @extend_schema(request=CertificateChange, responses={200: IssuingSerializer, 204: None})
    def update(self, request: Request, **kwargs: Any) -> Response:
        """Change settings or the key policy. A new account issues the certificate again, as does
        a policy that takes a new key.

        With `"action": "verify_domain"`, only `verified` can change. The response is 204 when every
        CNAME leads to the service zone.
        """
        certificate = self.get_object()
        given = parsed(CertificateChange, request)
        if given["action"] == "verify_domain":
            self.count(PreflightThrottle())
            with outward.for_owner(self.owner.pk):
                delegation.verify(certificate)
            return Response(status=NO_CONTENT)
        changes = parsing.changes_of(self.owner, certificate, given)
        moves = changes.get("account", certificate.account) != certificate.account
        policy = changes.get("key_policy", certificate.key_policy)
        if moves or (certificate.key_policy == DEVICE_REQUIRED and policy != DEVICE_REQUIRED):
            need(request, self.obtype, str(certificate.pk), "issue")
        opens = changes.get("server_decrypt_export") and not certificate.server_decrypt_export
        if opens or policy != certificate.key_policy:
            refuse_old_login(request, settings.EXPORT_LOGIN_AGE)
        issuance = services.update_certificate(certificate, changes)
        answer = shown(certificate, issuance)
        return Response(answer | {"deployment": counts(certificate)})

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        """Delete the certificate. It is not renewed any more."""
        services.retire(self.get_object())
        return Response(status=NO_CONTENT)

    @extend_schema(
        parameters=[OpenApiParameter("detail", str, enum=["most"])],
        responses=FullCertificateSerializer,
    )
    def retrieve(self, request: Request, *args: Any, **kwargs: Any) -> Response:
        """Return the certificate. `detail=most` adds the chain, the CSR and the orders."""
        most = request.query_params.get("detail") == "most"
        serializer = FullCertificateSerializer if most else CertificateSerializer
        return Response(serializer(self.get_object(), context={"counts": True}).data)

    # --- attempts ---

    @extend_schema(responses=HistorySerializer(many=True))
    @action(detail=True, methods=["get"], url_path="issues")
    def issues(self, request: Request, **kwargs: Any) -> Response:
        """List the certificate's attempts, newest first."""
        page = self.paginate_queryset(self.get_object().issuances.order_by("-pk")) or []
        return self.get_paginated_response(HistorySerializer(page, many=True).data)

    @extend_schema(request=IssueRequest, parameters=[IDEMPOTENCY_KEY], responses=StartedSerializer)
    @issues.mapping.post
    def start(self, request: Request, **kwargs: Any) -> Response:
        """Issue or renew the certificate now. When an attempt is open, return that attempt."""
        certificate = self.get_object()
        seconds = parsed(IssueRequest, request).get("validity_seconds")
        if certificate.account.is_private:
            issuance = services.issue(
                certificate, validity_seconds=seconds, idempotency=idempotency(request)
            )
            return Response(shown(certificate, issuance))
        issuance = services.issue(certificate, idempotency=idempotency(request))
        note = {"note": str(THE_CA_DECIDES)} if seconds else {}
        return Response(AttemptSerializer(issuance).data | note)

    @extend_schema(request=IssueRequest, parameters=[IDEMPOTENCY_KEY], responses=StartedSerializer)
    @action(detail=True, methods=["post"])
    def renew(self, request: Request, **kwargs: Any) -> Response:
        """Do the same as `POST .../issues`."""
        return self.start(request, **kwargs)

    @extend_schema(request=None, responses=AttemptSerializer)
    @action(detail=True, methods=["post"])
    def cancel(self, request: Request, **kwargs: Any) -> Response:
        """Cancel the open attempt.

        The response is 409 when no attempt is open, or when the CA is already signing.
        """
        return Response(AttemptSerializer(services.cancel(self.get_object())).data)

    @extend_schema(request=RevokeRequest, responses={202: CertificateSerializer})
    @action(detail=True, methods=["post"])
    def revoke(self, request: Request, **kwargs: Any) -> Response:
        """Revoke the current version. A worker sends the revocation to the CA later.

        Until the CA has confirmed it, `status` stays as it is, and `revoke_asked_at` says when it
        was asked for.
        """
        certificate = self.get_object()
        reason = parsed(RevokeRequest, request).get("reason", 0)
        services.revoke(certificate, reason, audit.actor_of(request), audit.ip_of(request))
        return Response(shown(certificate, None), status=status.HTTP_202_ACCEPTED)

    @extend_schema(
        parameters=[OpenApiParameter("issue_history_id", int)], responses=IssueResultSerializer
    )
    @action(detail=True, methods=["get"], url_path="issue-result")
    def issue_result(self, request: Request, **kwargs: Any) -> Response:
        """Return the state of one attempt: the newest, or the one of `issue_history_id`."""
        certificate = self.get_object()
        wanted = request.query_params.get("issue_history_id", "")
        return Response(IssueResultSerializer(attempt_of(certificate, wanted)).data)

    @extend_schema(responses=EventSerializer(many=True))
    @action(detail=True, methods=["get"], url_path="issues/<id:issue_history_id>/events")
    def events(self, request: Request, issue_history_id: int, **kwargs: Any) -> Response:
        """List the events of the attempt, oldest first. With `after`, list only newer events."""
        attempt = attempt_of(self.get_object(), str(issue_history_id))
        page = self.paginate_queryset(attempt.events.order_by("pk")) or []
        return self.get_paginated_response(EventSerializer(page, many=True).data)

    @extend_schema(request=None, responses=PreflightSerializer)
    @action(detail=True, methods=["post"], throttle_classes=[PreflightThrottle])
    def preflight(self, request: Request, **kwargs: Any) -> Response:
        """Check now whether the CA would refuse an order. No order is sent."""
        certificate = self.get_object()
        with outward.for_owner(self.owner.pk):
            found = preflight.run(certificate)
        ok = not any(each.blocks for each in found)
        return Response(PreflightSerializer({"ok": ok, "findings": found}).data)

    @extend_schema(request=CertificateRequest, responses=PreflightOfRequestSerializer)
    @action(
        detail=False, methods=["post"], url_path="preflight", throttle_classes=[PreflightThrottle]
    )
    def preflight_of_request(self, request: Request, **kwargs: Any) -> Response:
        """Do the same for a certificate that does not exist yet. Nothing is stored."""
        spec = parsing.spec_of(self.owner, parsed(CertificateRequest, request))
        with outward.for_owner(self.owner.pk):
            found, zones = services.look(self.owner, spec)
        same = self.get_queryset().filter(pk__in=services.with_names(self.owner, spec.names))
        answer = {
            "ok": not any(each.blocks for each in found),
            "findings": found,
            "zones": zones,
            "expected": services.expected(
                spec.account,
                spec.settings.get("profile", ""),
                spec.settings.get("renew_days_before"),
            ),
            "same_names": list(same.values_list("pk", flat=True)),
            "limit": ratelimits.left_of_set(spec.account, spec.names),
        }
        return Response(PreflightOfRequestSerializer(answer).data)

    def count(self, throttle: BaseThrottle) -> None:
        """Count a call in a throttle that only some calls of the action need."""
        if not throttle.allow_request(self.request, self):
            self.throttled(self.request, throttle.wait() or 0)

    @extend_schema(responses=ExchangeSerializer(many=True))
    @action(
        detail=True,
        methods=["get"],
        url_path="issues/<id:issue_history_id>/exchanges",
        pagination_class=ExchangePagination,
    )
    def exchanges(self, request: Request, issue_history_id: int, **kwargs: Any) -> Response:
        """List the exchanges with the CA in the attempt, oldest first.

        Exchanges are kept only while debugging is on.
        """
        attempt = attempt_of(self.get_object(), str(issue_history_id))
        page = (
            self.paginate_queryset(Exchange.objects.filter(attempt_id=attempt.pk).order_by("pk"))
            or []
        )
        return self.get_paginated_response(ExchangeSerializer(page, many=True).data)

    # --- export ---

    @extend_schema(
        parameters=[
            OpenApiParameter("format", str, enum=["zip"]),
            OpenApiParameter(
                "pfx",
                str,
                enum=[*services.PFX],
                description="legacy: bundle.pfx for Windows Server 2016 and older macOS",
            ),
        ],
        responses={(200, "application/zip"): bytes},
    )
    @action(detail=True, methods=["get"], throttle_classes=[ExportThrottle])
    def export(self, request: Request, **kwargs: Any) -> HttpResponseBase:
        """Export key and chain as a ZIP.

        The header X-Export-Password has the one-time password of bundle.pfx.
        """
        certificate = self.get_object()
        refuse_old_login(request, settings.EXPORT_LOGIN_AGE)
        if request.query_params.get("format", "zip") != "zip":
            raise Invalid(_("format must be zip."), field="format")
        headers = services.head(certificate)
        if request.method == "HEAD":
            # Opens no key. Streamed, because otherwise the response has `Content-Length: 0`.
            return StreamingHttpResponse((), content_type="application/zip", headers=headers)
        content, password = services.bundle(
            certificate,
            actor=audit.actor_of(request),
            ip=audit.ip_of(request),
            user_agent=request.headers.get("User-Agent", ""),
            pfx=request.query_params.get("pfx", "modern"),
        )
        headers["X-Export-Password"] = password
        return HttpResponse(content, content_type="application/zip", headers=headers)


def attempt_of(certificate: Certificate, wanted: str) -> Issuance:
    """Return the attempt with the id `wanted`, or the newest when `wanted` is empty.

    Raise Invalid when `wanted` is not a number. Raise NotFound.
    """
    rows = certificate.issuances.order_by("-pk")
    if wanted:
        if not (wanted.isascii() and wanted.isdigit() and len(wanted) < 19):
            raise Invalid(_("issue_history_id must be a number."), field="issue_history_id")
        rows = rows.filter(pk=int(wanted))
    attempt = rows.first()
    if attempt:
        return attempt
    if wanted:
        raise NotFound(
            _(
                "%(domain)s has no attempt of this id. Check issue_history_id.",
                domain=certificate.domain,
            )
        )
    raise NotFound(
        _(
            "%(domain)s has no attempt yet. Start one with POST .../certificates/%(pk)s/issues.",
            domain=certificate.domain,
            pk=certificate.pk,
        )
    )
