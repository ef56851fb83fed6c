"""Ask in one statement whether any row is due, and when the next one is.

Most sweeps of a small server find no row. One plain statement takes a tenth of the CPU that a
query set for each table takes.
"""

from datetime import UTC, datetime

from django.db import connection
from django.db.models import Model

from authorities.models import AcmeAccount
from certctrl.turns import Turns
from dnsproviders.models import TxtRecord
from issuance.models import CertificateVersion, Deployment, Issuance, Probe, RenewalInfo
from notices.models import Delivery
from signin.models import MailedCode

WITH_TURNS: tuple[type[Turns], ...] = (
    Issuance,
    TxtRecord,
    AcmeAccount,
    CertificateVersion,
    RenewalInfo,
    Probe,
    Delivery,
    MailedCode,
)
WITH_WAKE_AT: tuple[type[Model], ...] = (*WITH_TURNS, Deployment)
# With MIN, the databases read one entry of the index. For EXISTS, PostgreSQL may read the table.
DUE = [
    f'(SELECT MIN(wake_at) FROM "{each._meta.db_table}"'  # noqa: S608
    " WHERE wake_at <= %s) IS NOT NULL"
    for each in WITH_WAKE_AT
]
ANY_IS_DUE = f"SELECT {' OR '.join(DUE)}"
SOON = [
    f'SELECT MIN(wake_at) AS at FROM "{each._meta.db_table}"'  # noqa: S608
    " WHERE wake_at > %s AND wake_at <= %s"
    for each in WITH_TURNS
]
NEXT_DUE = f"SELECT MIN(at) FROM ({' UNION ALL '.join(SOON)}) AS soon"  # noqa: S608


def any_is_due(now: datetime) -> bool:
    """Return whether `wake_at` of any row has passed."""
    at = connection.ops.adapt_datetimefield_value(now)
    with connection.cursor() as cursor:
        cursor.execute(ANY_IS_DUE, [at] * len(WITH_WAKE_AT))
        return bool(cursor.fetchone()[0])


def next_due(after: datetime, until: datetime) -> datetime | None:
    """Return the first `wake_at` of any row that is after `after` and at most `until`."""
    between = [connection.ops.adapt_datetimefield_value(each) for each in (after, until)]
    with connection.cursor() as cursor:
        cursor.execute(NEXT_DUE, between * len(WITH_TURNS))
        found: datetime | str | None = cursor.fetchone()[0]
    if isinstance(found, str):  # SQLite stores a text, in UTC
        return datetime.fromisoformat(found).replace(tzinfo=UTC)
    return found
