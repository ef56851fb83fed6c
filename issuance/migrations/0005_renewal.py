from datetime import timedelta
from random import random

from django.db import migrations
from django.utils import timezone

SPREAD = timedelta(hours=6)


def poll_what_is_there(apps, schema_editor):
    """Certificates that were issued before are asked about too, over the next hours."""
    certificates = apps.get_model("issuance", "Certificate").objects
    renewal_infos = apps.get_model("issuance", "RenewalInfo").objects
    now = timezone.now()
    wanted = certificates.filter(retired_at=None, current__not_after__gt=now, current__account__private_ca=None)
    missing = wanted.filter(current__renewal_info=None).exclude(current__ari_id="")
    renewal_infos.bulk_create(
        (
            renewal_infos.model(version_id=version_id, fraction=random(), wake_at=now + SPREAD * random())
            for version_id in missing.values_list("current", flat=True).iterator()
        ),
        batch_size=1000,
    )


class Migration(migrations.Migration):

    dependencies = [("issuance", "0004_renewal_and_limits")]

    operations = [migrations.RunPython(poll_what_is_there, migrations.RunPython.noop, elidable=True)]
