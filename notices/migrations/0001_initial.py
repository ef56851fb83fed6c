import certctrl.sentences
import django.db.models.deletion
import uuid
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
            name='Notice',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('kind', models.CharField(choices=[('renewed', 'Renewed'), ('renewal_failed', 'Renewal Failed'), ('expiring', 'Expiring'), ('ca_expiring', 'Ca Expiring'), ('record_left_behind', 'Record Left Behind'), ('credential_refused', 'Credential Refused'), ('not_served', 'Not Served'), ('action_needed', 'Action Needed'), ('audit_head', 'Audit Head'), ('test', 'Test'), ('confirm_address', 'Confirm Address')], max_length=20)),
                ('subject', certctrl.sentences.SentenceField()),
                ('body', certctrl.sentences.SentenceField(help_text='plain text for people')),
                ('data', models.JSONField(default=dict, help_text='the same facts, for programs')),
                ('dedupe_key', models.CharField(editable=False, max_length=200)),
                ('raised_at', models.DateTimeField()),
                ('last_raised_at', models.DateTimeField(db_index=True, help_text='of the same event, to within half a day')),
                ('owner', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='notices', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'indexes': [models.Index(fields=['owner', '-id'], name='notices_of_owner')],
                'constraints': [models.UniqueConstraint(fields=('owner', 'dedupe_key'), name='an_event_is_told_once')],
            },
        ),
        migrations.CreateModel(
            name='NoticeSettings',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('email_on', models.BooleanField(default=True)),
                ('email', models.EmailField(blank=True, help_text="empty for the owner's address", max_length=254)),
                ('muted', models.JSONField(blank=True, default=list, help_text='kinds of notices that are stored but not sent')),
                ('digest_over', models.PositiveIntegerField(default=20, help_text='mails in a day; further notices go into a digest')),
                ('confirmed_email', models.EmailField(blank=True, help_text='the last address that was confirmed with a code', max_length=254)),
                ('made_up_email', models.EmailField(blank=True, help_text="an owner's address that nobody has confirmed", max_length=254)),
                ('code_seed', models.CharField(blank=True, editable=False, max_length=32)),
                ('code_sent_at', models.DateTimeField(blank=True, null=True)),
                ('code_tries', models.PositiveSmallIntegerField(default=0)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('owner', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='notice_settings', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name_plural': 'notice settings',
            },
        ),
        migrations.CreateModel(
            name='Webhook',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64)),
                ('host', models.CharField(blank=True, editable=False, max_length=500)),
                ('kinds', models.JSONField(blank=True, default=list, help_text='kinds of notices; empty for all')),
                ('disabled_at', models.DateTimeField(blank=True, null=True)),
                ('retired_at', models.DateTimeField(blank=True, null=True)),
                ('last_error', certctrl.sentences.SentenceField(blank=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('address', models.ForeignKey(editable=False, help_text='its path or query may be a secret', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keystore.envelope')),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='webhooks', to=settings.AUTH_USER_MODEL)),
                ('secret', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keystore.envelope')),
            ],
        ),
        migrations.CreateModel(
            name='Delivery',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('wake_at', models.DateTimeField(blank=True, null=True)),
                ('holder', models.CharField(blank=True, default='', editable=False, max_length=32)),
                ('queued_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('stumbles', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('deaths', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('uuid', models.UUIDField(default=uuid.uuid4, editable=False, help_text='the same in each retry', unique=True)),
                ('channel', models.CharField(choices=[('email', 'Email'), ('webhook', 'Webhook')], max_length=8)),
                ('begun_at', models.DateTimeField(blank=True, help_text='when the mail counts in the daily limit, or the digest takes no more notices', null=True)),
                ('sent_at', models.DateTimeField(blank=True, null=True)),
                ('given_up_at', models.DateTimeField(blank=True, null=True)),
                ('error_what', certctrl.sentences.SentenceField(blank=True, help_text='why the last try failed')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('digest', models.ForeignKey(blank=True, help_text='the digest that lists this notice', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='held', to='notices.delivery')),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='deliveries', to=settings.AUTH_USER_MODEL)),
                ('notice', models.ForeignKey(db_index=False, blank=True, help_text='empty for a digest', null=True, on_delete=django.db.models.deletion.CASCADE, related_name='deliveries', to='notices.notice')),
                ('webhook', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='deliveries', to='notices.webhook')),
            ],
            options={
                'verbose_name_plural': 'deliveries',
                'abstract': False,
                'indexes': [models.Index(condition=models.Q(('wake_at__isnull', False)), fields=['wake_at'], name='delivery_wake_at'), models.Index(condition=models.Q(('queued_at__isnull', False)), fields=['queued_at'], name='delivery_queued_at'), models.Index(condition=models.Q(('begun_at__isnull', False)), fields=['owner', 'begun_at'], name='mails_of_owner')],
                'constraints': [models.UniqueConstraint(condition=models.Q(('channel', 'email'), ('notice__isnull', False)), fields=('notice',), name='one_mail_per_notice'), models.UniqueConstraint(fields=('notice', 'webhook'), name='one_post_per_notice_and_webhook'), models.UniqueConstraint(condition=models.Q(('begun_at', None), ('notice', None)), fields=('owner',), name='one_collecting_digest_per_owner'), models.CheckConstraint(condition=models.Q(models.Q(('channel', 'email'), ('webhook', None)), models.Q(('channel', 'webhook'), ('webhook__isnull', False)), _connector='OR'), name='a_post_goes_to_a_webhook'), models.CheckConstraint(condition=models.Q(models.Q(('digest', None), ('given_up_at', None), ('sent_at', None), ('wake_at__isnull', False)), models.Q(('sent_at__isnull', False), ('wake_at', None)), models.Q(('given_up_at__isnull', False), ('wake_at', None)), models.Q(('digest__isnull', False), ('wake_at', None)), _connector='OR'), name='a_delivery_wakes_until_it_is_over_or_held')],
            },
        ),
    ]
