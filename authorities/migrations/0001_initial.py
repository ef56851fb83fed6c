import certctrl.sentences
import django.db.models.deletion
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('keystore', '0001_initial'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='AcmeAccount',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('wake_at', models.DateTimeField(blank=True, null=True)),
                ('holder', models.CharField(blank=True, default='', editable=False, max_length=32)),
                ('queued_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('stumbles', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('deaths', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('name', models.CharField(max_length=64)),
                ('ca_provider', models.CharField(max_length=32)),
                ('directory_url', models.URLField(blank=True, max_length=500)),
                ('email', models.EmailField(blank=True, max_length=254)),
                ('terms_accepted_at', models.DateTimeField()),
                ('status', models.CharField(choices=[('pending', 'Pending'), ('valid', 'Valid'), ('refused', 'Refused'), ('deactivated', 'Deactivated')], default='pending', max_length=16)),
                ('url', models.URLField(blank=True, help_text='the account URL at the CA: the kid of each request', max_length=500)),
                ('thumbprint', models.CharField(blank=True, help_text='of the account key (RFC 7638)', max_length=64)),
                ('eab_kid', models.CharField(blank=True, max_length=255)),
                ('error_code', models.CharField(blank=True, max_length=64)),
                ('error_what', certctrl.sentences.SentenceField(blank=True)),
                ('defaults', models.JSONField(default=dict, help_text='key_type, key_size and validity_seconds of its certificates')),
                ('staging_first', models.BooleanField(default=False, help_text="after three failures in a row, the next attempt is tested at the CA's staging first")),
                ('log_level', models.CharField(blank=True, help_text='with debug, every exchange with the CA is stored', max_length=8)),
                ('save_requests', models.BooleanField(default=False, help_text='with log_level debug, bodies of requests are stored too')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('retired_at', models.DateTimeField(blank=True, null=True)),
                ('eab', models.ForeignKey(blank=True, editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keystore.envelope')),
                ('key', models.ForeignKey(editable=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keystore.envelope')),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='acme_accounts', to=settings.AUTH_USER_MODEL)),
                ('staging_account', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='authorities.acmeaccount')),
            ],
            options={
                'verbose_name': 'ACME account',
                'abstract': False,
                'indexes': [models.Index(condition=models.Q(('wake_at__isnull', False)), fields=['wake_at'], name='acmeaccount_wake_at'), models.Index(condition=models.Q(('queued_at__isnull', False)), fields=['queued_at'], name='acmeaccount_queued_at')],
            },
        ),
        migrations.CreateModel(
            name='Exchange',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('attempt_id', models.BigIntegerField(blank=True, db_index=True, help_text='null while the account is registered', null=True)),
                ('at', models.DateTimeField(db_index=True)),
                ('step', models.CharField(blank=True, max_length=16)),
                ('party', models.CharField(blank=True, help_text='the DNS provider; empty for the CA', max_length=64)),
                ('method', models.CharField(max_length=8)),
                ('url', models.CharField(max_length=500)),
                ('request', models.JSONField(blank=True, help_text='the payload, if requests are saved', null=True)),
                ('status', models.PositiveSmallIntegerField(blank=True, help_text='null when there was no response', null=True)),
                ('headers', models.JSONField(default=dict, help_text='the important headers of the response')),
                ('body', models.TextField(blank=True)),
                ('problem', models.JSONField(blank=True, null=True)),
                ('error', certctrl.sentences.SentenceField(blank=True, help_text='why there was no response')),
                ('took_ms', models.PositiveIntegerField(default=0)),
                ('account', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='exchanges', to='authorities.acmeaccount')),
            ],
        ),
        migrations.CreateModel(
            name='PrivateCA',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64)),
                ('subject', models.JSONField(default=dict)),
                ('algorithm', models.CharField(max_length=8)),
                ('key_size', models.PositiveIntegerField()),
                ('max_path_length', models.PositiveSmallIntegerField(blank=True, null=True)),
                ('certificate_pem', models.TextField()),
                ('serial_number', models.CharField(max_length=40)),
                ('not_before', models.DateTimeField()),
                ('not_after', models.DateTimeField()),
                ('status', models.CharField(choices=[('ACTIVE', 'Active'), ('RETIRED', 'Retired')], default='ACTIVE', max_length=8)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('key', models.ForeignKey(editable=False, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keystore.envelope')),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='private_cas', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'private CA',
            },
        ),
        migrations.AddField(
            model_name='acmeaccount',
            name='private_ca',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='accounts', to='authorities.privateca'),
        ),
    ]
