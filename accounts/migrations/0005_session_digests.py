from django.db import migrations
from django.db.models.functions import Length

from accounts.sessions import digest_of

LENGTH_OF_AN_ID = 32  # a digest has 40


def hash_ids(apps, schema_editor):
    """Everybody stays logged in: the cookies are the same."""
    rows = apps.get_model("sessions", "Session").objects.annotate(length=Length("session_key"))
    for key in list(rows.filter(length=LENGTH_OF_AN_ID).values_list("session_key", flat=True)):
        rows.filter(session_key=key).update(session_key=digest_of(key))


class Migration(migrations.Migration):
    """The table of sessions holds digests instead of ids. There is no way back but to log in again."""

    dependencies = [("accounts", "0004_user_words"), ("sessions", "0001_initial")]
    operations = [migrations.RunPython(hash_ids, migrations.RunPython.noop)]
