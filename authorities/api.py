"""ACME accounts, private CAs and exchanges over HTTP."""

from typing import Any, cast

from django.db.models import Count, Max, QuerySet
from drf_spectacular.utils import extend_schema
from rest_framework import serializers
from rest_framework.decorators import action
from rest_framework.mixins import ListModelMixin, RetrieveModelMixin
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.viewsets import GenericViewSet

from authorities import accounts, privateca
from authorities.models import AcmeAccount, Exchange, PrivateCA
from authorities.requests import AccountRequest, PrivateCARequest
from certctrl.api import CREATED, NO_CONTENT, EpochMillis, EpochSeconds, OwnedMixin, parsed
from certctrl.formats import ListPagination


class AccountSerializer(serializers.ModelSerializer[AcmeAccount]):
    user_id = serializers.IntegerField(source="owner_id", read_only=True)
    provider = serializers.CharField(source="ca_provider", read_only=True)
    ca_id = serializers.IntegerField(source="private_ca_id", read_only=True, allow_null=True)
    kid = serializers.SerializerMethodField()
    leaf_key_algorithm = serializers.SerializerMethodField()
    leaf_rsa_bits = serializers.SerializerMethodField()
    leaf_ec_curve = serializers.SerializerMethodField()
    cert_valid_seconds = serializers.IntegerField(
        source="defaults.validity_seconds", read_only=True, default=None, allow_null=True
    )
    staging_account_id = serializers.IntegerField(read_only=True, allow_null=True)
    created_at = EpochSeconds()
    updated_at = EpochSeconds()

    class Meta:
        model = AcmeAccount
        fields = (
            "id",
            "user_id",
            "name",
            "email",
            "provider",
            "ca_provider",
            "directory_url",
            "kid",
            "ca_id",
            "status",
            "error_code",
            "error_what",
            "eab_kid",
            "leaf_key_algorithm",
            "leaf_rsa_bits",
            "leaf_ec_curve",
            "cert_valid_seconds",
            "log_level",
            "save_requests",
            "staging_first",
            "staging_account_id",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_kid(self, account: AcmeAccount) -> str | None:
        return account.url or None

    def get_leaf_key_algorithm(self, account: AcmeAccount) -> str:
        return str(account.defaults.get("key_type", "")).upper()

    def get_leaf_rsa_bits(self, account: AcmeAccount) -> int | None:
        return (
            account.defaults.get("key_size") if account.defaults.get("key_type") == "rsa" else None
        )

    def get_leaf_ec_curve(self, account: AcmeAccount) -> str:
        is_ecdsa = account.defaults.get("key_type") == "ecdsa"
        return privateca.CURVE_NAMES.get(account.defaults.get("key_size"), "") if is_ecdsa else ""


class PrivateCASerializer(serializers.ModelSerializer[PrivateCA]):
    user_id = serializers.IntegerField(source="owner_id", read_only=True)
    ca_certificate_pem = serializers.CharField(source="certificate_pem", read_only=True)
    enc_scheme = serializers.SerializerMethodField()
    curve_name = serializers.SerializerMethodField()
    country = serializers.CharField(source="subject.country", read_only=True, default="")
    state = serializers.CharField(source="subject.state", read_only=True, default="")
    locality = serializers.CharField(source="subject.locality", read_only=True, default="")
    organization = serializers.CharField(source="subject.organization", read_only=True, default="")
    organizational_unit = serializers.CharField(
        source="subject.organizational_unit", read_only=True, default=""
    )
    common_name = serializers.CharField(source="subject.common_name", read_only=True, default="")
    valid_days = serializers.SerializerMethodField()
    key_usage = serializers.SerializerMethodField()
    issued_cert_count = serializers.IntegerField(read_only=True, default=0)
    last_used_at = serializers.SerializerMethodField()
    not_before = EpochMillis()
    not_after = EpochMillis()
    created_at = EpochMillis()
    updated_at = EpochMillis()

    class Meta:
        model = PrivateCA
        fields = (
            "id",
            "user_id",
            "name",
            "algorithm",
            "key_size",
            "curve_name",
            "country",
            "state",
            "locality",
            "organization",
            "organizational_unit",
            "common_name",
            "valid_days",
            "max_path_length",
            "key_usage",
            "serial_number",
            "ca_certificate_pem",
            "status",
            "not_before",
            "not_after",
            "issued_cert_count",
            "last_used_at",
            "enc_scheme",
            "created_at",
            "updated_at",
        )
        read_only_fields = fields

    def get_curve_name(self, private_ca: PrivateCA) -> str:
        return privateca.CURVE_NAMES.get(private_ca.key_size, "")

    def get_valid_days(self, private_ca: PrivateCA) -> int:
        return (private_ca.not_after - private_ca.not_before).days

    def get_key_usage(self, private_ca: PrivateCA) -> str:
        return privateca.key_usage_of(private_ca.certificate_pem)

    def get_last_used_at(self, private_ca: PrivateCA) -> int:
        last = getattr(private_ca, "last_used_at", None)
        return int(last.timestamp() * 1000) if last else 0

    def get_enc_scheme(self, private_ca: PrivateCA) -> int:
        return 1


class ExchangeSerializer(serializers.ModelSerializer[Exchange]):
    """A request to a CA or to a DNS API, and its response.

    Of a DNS API, the method and the path are kept, and not the bodies. When no response came,
    `status` is null and `error` says why.
    """

    at = EpochMillis()

    class Meta:
        model = Exchange
        fields = (
            "id",
            "at",
            "step",
            "party",
            "method",
            "url",
            "request",
            "status",
            "headers",
            "body",
            "problem",
            "error",
            "took_ms",
        )
        read_only_fields = fields


class ExchangePagination(ListPagination):
    """At most 100 exchanges on a page, because each may have a body of 64 KiB."""

    max_limit = 100


class AccountViewSet(OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[AcmeAccount]):
    queryset = AcmeAccount.objects.filter(retired_at=None)
    serializer_class = AccountSerializer
    obtype = "acme_accounts"
    permissions = {
        "list": "read",
        "retrieve": "read",
        "create": "write",
        "update": "write",
        "destroy": "write",
        "register": "write",
        "exchanges": "read",
    }

    @extend_schema(request=AccountRequest, responses={201: AccountSerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Create an account. Its registration at the CA starts at once.

        `status` shows the result, and `error_what` has the CA's words.
        """
        account = accounts.create_account(self.owner, parsed(AccountRequest, request))
        return Response(AccountSerializer(account).data, status=CREATED)

    @extend_schema(request=AccountRequest, responses=AccountSerializer)
    def update(self, request: Request, **kwargs: Any) -> Response:
        """Change the name, the e-mail address, the key defaults, debugging or `staging_first`."""
        account = accounts.update_account(
            self.get_object(), parsed(AccountRequest, request, partial=True)
        )
        return Response(AccountSerializer(account).data)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        """Delete the account. The response is 409 while something uses the account."""
        accounts.retire_account(self.get_object())
        return Response(status=NO_CONTENT)

    @extend_schema(request=None, responses=AccountSerializer)
    @action(detail=True, methods=["post"])
    def register(self, request: Request, **kwargs: Any) -> Response:
        """Register the account again, for example after its EAB was fixed at the CA."""
        return Response(AccountSerializer(accounts.retry_registration(self.get_object())).data)

    @extend_schema(responses=ExchangeSerializer(many=True))
    @action(detail=True, methods=["get"], pagination_class=ExchangePagination)
    def exchanges(self, request: Request, **kwargs: Any) -> Response:
        """List the exchanges with the CA while the account registered, oldest first.

        Exchanges are kept only while debugging is on.
        """
        page = (
            self.paginate_queryset(
                self.get_object().exchanges.filter(attempt_id=None).order_by("pk")
            )
            or []
        )
        return self.get_paginated_response(ExchangeSerializer(page, many=True).data)


class PrivateCAViewSet(OwnedMixin, ListModelMixin, RetrieveModelMixin, GenericViewSet[PrivateCA]):
    queryset = PrivateCA.objects.filter(status=PrivateCA.Status.ACTIVE)
    serializer_class = PrivateCASerializer
    obtype = "cas"
    permissions = {"list": "read", "retrieve": "read", "create": "write", "destroy": "write"}

    def get_queryset(self) -> QuerySet[PrivateCA]:
        versions = "accounts__versions"
        used = {
            "issued_cert_count": Count(versions),
            "last_used_at": Max(f"{versions}__created_at"),
        }
        return cast("QuerySet[PrivateCA]", super().get_queryset().annotate(**used))

    @extend_schema(request=PrivateCARequest, responses={201: PrivateCASerializer})
    def create(self, request: Request, **kwargs: Any) -> Response:
        """Create a private CA with a self-signed certificate."""
        private_ca = privateca.create_private_ca(self.owner, dict(request.data))
        return Response(PrivateCASerializer(private_ca).data, status=CREATED)

    @extend_schema(responses={204: None})
    def destroy(self, request: Request, **kwargs: Any) -> Response:
        """Delete the private CA. The response is 409 while accounts use the CA."""
        accounts.retire_private_ca(self.get_object())
        return Response(status=NO_CONTENT)
