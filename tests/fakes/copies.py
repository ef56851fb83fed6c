"""Copies of a row of every table, written directly into PostgreSQL."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

from django.apps import apps
from django.db import connection, transaction

MANY = 10_000  # copies that are written faster without indexes
OPEN = 0.01  # of the attempts have a second, open attempt of their certificate
# The copies of each table for each certificate. A copy leads to copies of the tables before it.
COPIES = {
    "accounts.User": 0.01,
    "accounts.Session": 0.02,
    "accounts.ApiKey": 0.02,
    "accounts.SavedView": 0.0001,
    "accounts.AuditEvent": 2,
    "signin.SecondFactor": 0.01,
    "signin.RecoveryCode": 0.1,
    "signin.MailedCode": 0.1,
    "signin.ExternalIdentity": 0.01,
    "keystore.Envelope": 1,
    "keystore.RecipientKey": 0.1,
    "keystore.KeyWrap": 1,
    "authorities.PrivateCA": 0.01,
    "authorities.AcmeAccount": 0.01,
    "authorities.Exchange": 0.5,
    "dnsproviders.DisabledProvider": 0.0001,
    "dnsproviders.DnsCredential": 0.01,
    "dnsproviders.TxtRecord": 0.5,
    "dnsproviders.ApiBucket": 0.01,
    "devices.EnrolmentKey": 0.01,
    "devices.Device": 0.1,
    "devices.DeviceTag": 0.1,
    "devices.Signal": 1,
    "devices.AgentChallenge": 0.1,
    "devices.DeviceCode": 0.1,
    "devices.DeviceSession": 0.1,
    "devices.InstallPlan": 0.1,
    "notices.Notice": 0.5,
    "notices.Webhook": 0.01,
    "notices.NoticeSettings": 0.01,
    "notices.Delivery": 0.5,
    "issuance.Label": 0.0005,
    "issuance.LimitBucket": 0.5,
    "issuance.Certificate": 1,
    "issuance.Issuance": 1,
    "issuance.CertificateVersion": 1,
    "issuance.RenewalInfo": 1,
    "issuance.IssuanceEvent": 2,
    "issuance.Authorization": 1,
    "issuance.RequestKey": 0.1,
    "issuance.Probe": 0.1,
    "issuance.Reservation": 0.1,
    "issuance.ReservedToken": 0.1,
    "issuance.Deployment": 0.5,
    "issuance.CertificateTag": 0.1,
    "issuance.TrustedCA": 0.01,
}
# The columns of copies that are neither equal nor made unique by their type, as SQL.
DIFFERING = {
    ("User", "email"): "'u' || n || '@example.net'",
    ("AuditEvent", "place"): "NULL",
    ("AuditEvent", "previous_hash"): "''",
    ("AuditEvent", "hash"): "''",
    ("Signal", "seq"): "n + 1000",
    ("InstallPlan", "version"): "n + 1000",
    ("RecipientKey", "fingerprint"): "decode(md5(n::text) || md5('f' || n), 'hex')",
    ("Certificate", "domain"): "'n' || n || '.example.com'",
    ("Certificate", "names"): "jsonb_build_array('n' || n || '.example.com')",
    ("Certificate", "request_digest"): "md5('ask' || n)",
    ("Certificate", "expires_at"): "now() + n * interval '7 seconds'",
    ("Certificate", "renew_at"): "now() + n * interval '5 seconds'",
    ("CertificateVersion", "serial"): "md5('serial' || n)",
    ("CertificateVersion", "chain_pem"): "left(chain_pem, 200)",  # saves gigabytes
}


class Copies:
    """Copies of one row of each table. Half of the copies belong to one owner."""

    def __init__(self, certificates: int) -> None:
        self.models = {name: apps.get_model(name) for name in COPIES}
        self.numbers = {
            self.models[name]: max(2, int(part * certificates)) for name, part in COPIES.items()
        }
        self.first = {
            model: last_of(model) + 1 for model in self.models.values() if numbered(model)
        }

    def write(self, done: Callable[[str, int], object] = lambda table, rows: None) -> None:
        """Write the copies. Call `done` after each table, with its name and its new rows."""
        with transaction.atomic():  # certificates and versions lead to each other
            with connection.cursor() as cursor:
                cursor.execute("SET CONSTRAINTS ALL IMMEDIATE")  # of the rows that are copied
                cursor.execute("SET LOCAL maintenance_work_mem = '256MB'")
                # To check each key takes long. Only certificates need their triggers.
                cursor.execute("SET LOCAL session_replication_role = replica")
                trigger_certificates(cursor, "ENABLE ALWAYS")
            for model, number in self.numbers.items():
                with without_indexes(model) if number > MANY else nullcontext():
                    self.copy(model, self.source(model).pk, number)
                done(model.__name__, number)
            self.copy_open_attempts()
            with connection.cursor() as cursor:
                trigger_certificates(cursor, "ENABLE")
                cursor.execute("SET LOCAL session_replication_role = origin")

    def source(self, model: Any) -> Any:
        rows = model._default_manager.order_by("pk")
        some = {"Issuance": {"state": "issued"}, "Certificate": {"current__isnull": False}}
        some["IssuanceEvent"] = {"issuance__state": "issued"}
        some["Authorization"] = some["Reservation"] = some["IssuanceEvent"]
        some["KeyWrap"] = {"master_key_id__isnull": False}
        return rows.filter(**some.get(model.__name__, {})).earliest("pk")

    def copy_open_attempts(self) -> None:
        """Copy the attempt that waits, for the first certificates."""
        model = self.models["issuance.Issuance"]
        waiting = model.objects.open().earliest("pk").pk
        self.first[model] += self.numbers[model]
        number = max(1, int(OPEN * self.numbers[model]))
        self.copy(model, waiting, number, {"number": "2", "order_url": "'open' || n"})

    def copy(
        self, model: Any, source: Any, number: int, other: dict[str, str] | None = None
    ) -> None:
        fields = [field for field in model._meta.concrete_fields if not field.generated]
        values = {field.column: self.value(model, field) for field in fields} | (other or {})
        table, key = model._meta.db_table, model._meta.pk.column
        columns = ", ".join(f'"{each}"' for each in values)
        with connection.cursor() as cursor:
            cursor.execute(
                f"INSERT INTO {table} ({columns}) SELECT {', '.join(values.values())} FROM {table},"
                f" generate_series(1, %s) AS n WHERE {key} = %s",
                [number, source],
            )
            if numbered(model):
                cursor.execute(
                    "SELECT setval(pg_get_serial_sequence(%s, 'id'), %s)", [table, last_of(model)]
                )

    def value(self, model: Any, field: Any) -> str:
        """Return the value of a column of the n-th copy, as SQL."""
        column = f'"{field.column}"'
        if found := DIFFERING.get((model.__name__, field.name)):
            return found
        if field.primary_key:
            return f"{self.first[model]} + n - 1" if numbered(model) else unique(field)
        target = field.related_model
        if target in self.first and target is not model:
            nth = f"{self.first[target]} + (n - 1) %% {self.numbers[target]}"
            if target.__name__ == "User" and not field.unique:
                return f"CASE WHEN n %% 2 = 0 THEN {column} ELSE {nth} END"
            return f"CASE WHEN {column} IS NULL THEN NULL ELSE {nth} END"
        return unique(field) if is_unique(model, field) else column


def trigger_certificates(cursor: Any, when: str) -> None:
    """Change when the triggers of certificates run."""
    table = "issuance_certificate"
    cursor.execute(
        "SELECT tgname FROM pg_trigger WHERE NOT tgisinternal AND tgrelid = %s::regclass", [table]
    )
    for (name,) in cursor.fetchall():
        cursor.execute(f'ALTER TABLE {table} {when} TRIGGER "{name}"')


@contextmanager
def without_indexes(model: Any) -> Iterator[None]:
    """Drop the indexes that no constraint needs, and make them again. That is faster.

    With a certificate, a trigger writes the parts of its names. PostgreSQL may not use the new
    indexes in this transaction.
    """
    tables = {"Certificate": ["issuance_certificate", "issuance_namepart"]}
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT indexrelid::regclass::text, pg_get_indexdef(indexrelid) FROM pg_index"
            " WHERE NOT indisunique AND indrelid::regclass::text = ANY(%s)",
            [tables.get(model.__name__, [model._meta.db_table])],
        )
        found = cursor.fetchall()
        for name, _definition in found:
            cursor.execute(f"DROP INDEX {name}")
        yield
        for _name, definition in found:
            cursor.execute(definition)


def numbered(model: Any) -> bool:
    return model._meta.pk.get_internal_type() == "BigAutoField"


def last_of(model: Any) -> int:
    return int(model._default_manager.order_by("-pk").values_list("pk", flat=True)[0])


def is_unique(model: Any, field: Any) -> bool:
    """Return whether a unique constraint has this column of texts."""
    together = {name for each in model._meta.constraints for name in getattr(each, "fields", ())}
    is_text = field.get_internal_type() in ("CharField", "TextField", "UUIDField")
    return bool(is_text and not field.choices and (field.unique or field.name in together))


def unique(field: Any) -> str:
    if field.get_internal_type() == "UUIDField":
        return "gen_random_uuid()"
    length = min(field.max_length or 64, 64)
    digest = f"left(md5('{field.name}' || n) || md5(n || 'b'), {length})"
    digest = "lpad(to_hex(n), 6, '0')" if length < 20 else digest
    return f'CASE WHEN "{field.column}" IS NULL THEN NULL ELSE {digest} END'
