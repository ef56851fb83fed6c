from urllib.parse import urlsplit

import django.db.models.deletion
from django.db import migrations, models

from accounts.models import User
from keystore import envelope
from notices.webhooks import URL_PURPOSE


def keep_those_in_use(apps, schema_editor):
    """Warnings that reach somebody go on reaching them; only new addresses are asked."""
    apps.get_model("notices", "NoticeSettings").objects.update(confirmed_email=models.F("email"))


def seal_webhooks(apps, schema_editor):
    """`host` has the whole address here, as its column had it before."""
    for webhook in apps.get_model("notices", "Webhook").objects.filter(address=None):
        url, webhook.host = webhook.host, urlsplit(webhook.host).hostname or ""
        if webhook.retired_at is None:
            owner = User.objects.get(pk=webhook.owner_id)
            webhook.address_id = envelope.seal(owner, URL_PURPOSE, url.encode()).pk
        webhook.save()


class Migration(migrations.Migration):
    dependencies = [("notices", "0001_initial"), ("keystore", "0002_one_master_wrap"), ("accounts", "0005_session_digests")]

    operations = [
        migrations.AddField(
            model_name='noticesettings',
            name='code_seed',
            field=models.CharField(blank=True, editable=False, max_length=32),
        ),
        migrations.AddField(
            model_name='noticesettings',
            name='code_sent_at',
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name='noticesettings',
            name='code_tries',
            field=models.PositiveSmallIntegerField(default=0),
        ),
        migrations.AddField(
            model_name='noticesettings',
            name='confirmed_email',
            field=models.EmailField(blank=True, help_text='the latest address whose code came back', max_length=254),
        ),
        migrations.AddField(
            model_name='noticesettings',
            name='made_up_email',
            field=models.EmailField(blank=True, help_text="an owner's address that nobody vouched for", max_length=254),
        ),
        migrations.AlterField(
            model_name='notice',
            name='kind',
            field=models.CharField(choices=[('renewed', 'Renewed'), ('renewal_failed', 'Renewal Failed'), ('expiring', 'Expiring'), ('record_left_behind', 'Record Left Behind'), ('credential_refused', 'Credential Refused'), ('action_needed', 'Action Needed'), ('test', 'Test'), ('confirm_address', 'Confirm Address')], max_length=20),
        ),
        migrations.RenameField("webhook", "url", "host"),
        migrations.AlterField("webhook", "host", models.CharField(blank=True, editable=False, max_length=500)),
        migrations.AddField(
            "webhook",
            "address",
            models.ForeignKey(
                editable=False,
                help_text="its path or query may be a key",
                null=True,
                on_delete=django.db.models.deletion.PROTECT,
                related_name="+",
                to="keystore.envelope",
            ),
        ),
        migrations.RunPython(seal_webhooks, migrations.RunPython.noop),
        migrations.RunPython(keep_those_in_use, migrations.RunPython.noop),
    ]
