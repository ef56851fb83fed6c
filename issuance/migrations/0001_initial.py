import django.db.models.deletion
import issuance.models.certificates
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('authorities', '0001_initial'),
        ('devices', '0001_initial'),
        ('dnsproviders', '0001_initial'),
        ('keystore', '0001_initial'),
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Certificate',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('domain', models.CharField(help_text='the first name, an A-label', max_length=253)),
                ('names', models.JSONField(help_text='A-labels, the domain first')),
                ('key_type', models.CharField(choices=[('ecdsa', 'Ecdsa'), ('rsa', 'Rsa')], default='ecdsa', max_length=8)),
                ('key_size', models.PositiveIntegerField(default=256)),
                ('key_policy', models.CharField(choices=[('MASTER_ONLY', 'Master Only'), ('HYBRID', 'Hybrid'), ('DEVICE_REQUIRED', 'Device Required')], default='HYBRID', max_length=16)),
                ('server_decrypt_export', models.BooleanField(default=False)),
                ('public_id', models.CharField(default=issuance.models.certificates.new_public_id, editable=False, max_length=32, unique=True)),
                ('verified', models.BooleanField(default=False)),
                ('organization', models.CharField(blank=True, max_length=64)),
                ('organizational_unit', models.CharField(blank=True, max_length=64)),
                ('country', models.CharField(blank=True, max_length=2)),
                ('state', models.CharField(blank=True, max_length=64)),
                ('locality', models.CharField(blank=True, max_length=64)),
                ('auto_renew', models.BooleanField(default=True)),
                ('renew_days_before', models.PositiveIntegerField(blank=True, null=True)),
                ('profile', models.CharField(blank=True, help_text='sent with the order where the CA lists it', max_length=64)),
                ('preferred_chain', models.CharField(blank=True, help_text='common name of an issuer in the chain', max_length=200)),
                ('reuse_key', models.BooleanField(default=False, help_text='renewals keep the key, for those who pin it')),
                ('expires_at', models.DateTimeField(blank=True, null=True)),
                ('renew_at', models.DateTimeField(blank=True, null=True)),
                ('failures', models.PositiveIntegerField(default=0)),
                ('failing_since', models.DateTimeField(blank=True, help_text='the first of the failures in a row', null=True)),
                ('proved_at', models.DateTimeField(blank=True, help_text='staging issued it; production is tried next', null=True)),
                ('request_digest', models.CharField(editable=False, help_text='digest of the request that made it', max_length=64)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('updated_at', models.DateTimeField(auto_now=True)),
                ('retired_at', models.DateTimeField(blank=True, null=True)),
                ('account', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='certificates', to='authorities.acmeaccount')),
                ('credential', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='certificates', to='dnsproviders.dnscredential')),
                ('fallback_account', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='fallback_certificates', to='authorities.acmeaccount')),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='certificates', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='CertificateVersion',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('wake_at', models.DateTimeField(blank=True, null=True)),
                ('holder', models.CharField(blank=True, default='', editable=False, max_length=32)),
                ('queued_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('stumbles', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('deaths', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('serial', models.CharField(help_text='hex', max_length=40)),
                ('not_before', models.DateTimeField()),
                ('not_after', models.DateTimeField()),
                ('fingerprint', models.CharField(help_text='SHA-256 of the leaf, hex', max_length=64)),
                ('issuer', models.CharField(blank=True, help_text='common name of who signed it', max_length=255)),
                ('ari_id', models.CharField(blank=True, help_text='its identifier at the CA: RFC 9773, section 4.1', max_length=100)),
                ('chain_pem', models.TextField(help_text='leaf first')),
                ('added_names', models.JSONField(blank=True, default=list, help_text='that the CA put in without being asked')),
                ('revoke_asked_at', models.DateTimeField(blank=True, null=True)),
                ('revoke_reason', models.PositiveSmallIntegerField(blank=True, help_text='RFC 5280, 5.3.1', null=True)),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('revoke_error', models.TextField(blank=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('account', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='versions', to='authorities.acmeaccount')),
                ('certificate', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='versions', to='issuance.certificate')),
                ('key', models.ForeignKey(editable=False, help_text='null once it is destroyed', null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keystore.envelope')),
            ],
            options={
                'abstract': False,
            },
        ),
        migrations.AddField(
            model_name='certificate',
            name='current',
            field=models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='issuance.certificateversion'),
        ),
        migrations.CreateModel(
            name='Drill',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('issuer', models.CharField(blank=True, max_length=255)),
                ('why', models.CharField(blank=True, max_length=255)),
                ('total', models.PositiveIntegerField(default=0, help_text='certificates that it had to replace when it began')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('ended_at', models.DateTimeField(blank=True, null=True)),
                ('stopped_at', models.DateTimeField(blank=True, help_text='by a person; it may be resumed', null=True)),
                ('account', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='authorities.acmeaccount')),
                ('by', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='Issuance',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('wake_at', models.DateTimeField(blank=True, null=True)),
                ('holder', models.CharField(blank=True, default='', editable=False, max_length=32)),
                ('queued_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('stumbles', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('deaths', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('order_url', models.CharField(blank=True, max_length=500)),
                ('order_expires_at', models.DateTimeField(blank=True, null=True)),
                ('finalize_url', models.CharField(blank=True, help_text='where a CSR goes, unless the order must be read first', max_length=500)),
                ('orders', models.PositiveSmallIntegerField(default=0, help_text='how often a new order was sent')),
                ('profile', models.CharField(blank=True, help_text='that the order was sent with', max_length=64)),
                ('replaces', models.CharField(blank=True, help_text='the ari_id that the order said it replaces', max_length=100)),
                ('replaces_refused', models.BooleanField(default=False, help_text='the CA refused `replaces`: it is left out')),
                ('csr_sent_at', models.DateTimeField(blank=True, null=True)),
                ('certificate_url', models.CharField(blank=True, max_length=500)),
                ('presents', models.PositiveSmallIntegerField(default=0, help_text='how often its records were published again')),
                ('settles_at', models.DateTimeField(blank=True, help_text='every record was shown; the credential waits on', null=True)),
                ('deaf', models.JSONField(blank=True, default=list, help_text='name servers that the preflight found not to answer for their zone')),
                ('names_key', models.CharField(editable=False, max_length=64)),
                ('number', models.PositiveIntegerField(default=1, help_text="of the certificate's attempts, from 1")),
                ('reason', models.CharField(choices=[('new', 'New'), ('renewal', 'Renewal'), ('manual', 'Manual')], max_length=8)),
                ('state', models.CharField(choices=[('queued', 'Queued'), ('ordered', 'Ordered'), ('presented', 'Presented'), ('propagated', 'Propagated'), ('validated', 'Validated'), ('finalized', 'Finalized'), ('issued', 'Issued'), ('failed', 'Failed'), ('canceled', 'Canceled')], default='queued', max_length=10)),
                ('state_since', models.DateTimeField()),
                ('deadline_at', models.DateTimeField()),
                ('waits_for', models.TextField(blank=True)),
                ('validity_seconds', models.PositiveIntegerField(blank=True, null=True)),
                ('csr_pem', models.TextField(blank=True)),
                ('slot_at', models.DateTimeField(blank=True, help_text="when the CA's limits let it order, as estimated", null=True)),
                ('preflighted_at', models.DateTimeField(blank=True, null=True)),
                ('proves', models.BooleanField(default=False, help_text="at the CA's staging: what is issued is thrown away")),
                ('error_code', models.CharField(blank=True, max_length=64)),
                ('error_what', models.TextField(blank=True)),
                ('failure', models.CharField(blank=True, choices=[('transient', 'Transient'), ('limited', 'Limited'), ('permanent', 'Permanent')], max_length=9)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('ended_at', models.DateTimeField(blank=True, null=True)),
                ('account', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='issuances', to='authorities.acmeaccount')),
                ('certificate', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='issuances', to='issuance.certificate')),
                ('credential', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='issuances', to='dnsproviders.dnscredential')),
                ('key', models.ForeignKey(blank=True, editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='keystore.envelope')),
            ],
            options={
                'abstract': False,
            },
        ),
        migrations.AddField(
            model_name='certificateversion',
            name='issuance',
            field=models.OneToOneField(on_delete=django.db.models.deletion.PROTECT, related_name='version', to='issuance.issuance'),
        ),
        migrations.CreateModel(
            name='Authorization',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('url', models.CharField(max_length=500)),
                ('identifier', models.CharField(blank=True, max_length=253)),
                ('wildcard', models.BooleanField(default=False)),
                ('status', models.CharField(choices=[('unread', 'Unread'), ('pending', 'Pending'), ('valid', 'Valid'), ('invalid', 'Invalid')], default='unread', max_length=16)),
                ('challenge', models.CharField(blank=True, help_text='its type', max_length=32)),
                ('challenge_url', models.CharField(blank=True, max_length=500)),
                ('seen_at', models.DateTimeField(blank=True, null=True)),
                ('answered_at', models.DateTimeField(blank=True, null=True)),
                ('record', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='authorizations', to='dnsproviders.txtrecord')),
                ('issuance', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='authorizations', to='issuance.issuance')),
            ],
        ),
        migrations.CreateModel(
            name='IssuanceEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField(db_index=True)),
                ('step', models.CharField(max_length=16)),
                ('outcome', models.CharField(choices=[('done', 'Done'), ('wait', 'Wait'), ('retry', 'Retry'), ('failed', 'Failed')], max_length=8)),
                ('what', models.TextField()),
                ('took_ms', models.PositiveIntegerField(default=0)),
                ('issuance', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='events', to='issuance.issuance')),
            ],
        ),
        migrations.CreateModel(
            name='LimitBucket',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('ca', models.CharField(help_text='the directory of the CA', max_length=500)),
                ('kind', models.CharField(choices=[('account', 'Account'), ('domain', 'Domain'), ('set', 'Set'), ('failures', 'Failures'), ('busy', 'Busy')], max_length=8)),
                ('subject', models.CharField(help_text='what is counted: an account, a domain, a digest of names', max_length=320)),
                ('label', models.CharField(blank=True, help_text='the subject as a sentence names it', max_length=320)),
                ('level', models.FloatField(help_text='tokens at `at`, without those of orders that are under way')),
                ('at', models.DateTimeField(help_text='in the future while the CA said to come back then')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
            ],
            options={
                'indexes': [models.Index(fields=['at'], name='buckets_by_age')],
                'constraints': [models.UniqueConstraint(fields=('ca', 'kind', 'subject'), name='one_bucket_for_each_subject')],
            },
        ),
        migrations.AddField(
            model_name='certificate',
            name='lacks',
            field=models.ForeignKey(blank=True, db_index=False, help_text='the bucket of a rate limit that it waits for while it is due', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='issuance.limitbucket'),
        ),
        migrations.CreateModel(
            name='RenewalInfo',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('wake_at', models.DateTimeField(blank=True, null=True)),
                ('holder', models.CharField(blank=True, default='', editable=False, max_length=32)),
                ('queued_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('stumbles', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('deaths', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('fraction', models.FloatField(help_text='where in the window the renewal lies, 0 to 1')),
                ('window_start', models.DateTimeField(blank=True, null=True)),
                ('window_end', models.DateTimeField(blank=True, null=True)),
                ('explanation_url', models.CharField(blank=True, max_length=500)),
                ('checked_at', models.DateTimeField(blank=True, null=True)),
                ('error_what', models.TextField(blank=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('version', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='renewal_info', to='issuance.certificateversion')),
            ],
            options={
                'verbose_name_plural': 'renewal infos',
                'abstract': False,
            },
        ),
        migrations.CreateModel(
            name='RequestKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.CharField(max_length=255)),
                ('digest', models.CharField(help_text='SHA-256 of method, path and body', max_length=64)),
                ('created_at', models.DateTimeField(auto_now_add=True, db_index=True)),
                ('certificate', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='issuance.certificate')),
                ('issuance', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='+', to='issuance.issuance')),
                ('owner', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='Reservation',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('state', models.CharField(choices=[('waiting', 'Waiting'), ('sent', 'Sent'), ('spent', 'Spent')], default='waiting', max_length=8)),
                ('is_renewal', models.BooleanField(default=False)),
                ('expires_at', models.DateTimeField(blank=True, help_text='of the certificate that it renews', null=True)),
                ('asked_at', models.DateTimeField()),
                ('sent_at', models.DateTimeField(blank=True, null=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('issuance', models.OneToOneField(on_delete=django.db.models.deletion.CASCADE, related_name='reservation', to='issuance.issuance')),
                ('lacks', models.ForeignKey(blank=True, db_index=False, help_text='the bucket that it waits for; empty while a trouble delays it', null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to='issuance.limitbucket')),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='ReservedToken',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('cost', models.PositiveSmallIntegerField(default=1)),
                ('bucket', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='tokens', to='issuance.limitbucket')),
                ('reservation', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='tokens', to='issuance.reservation')),
            ],
        ),
        migrations.AddIndex(
            model_name='certificate',
            index=models.Index(condition=models.Q(('lacks__isnull', True), ('renew_at__isnull', False)), fields=['renew_at', 'expires_at', 'id'], name='certificates_to_renew'),
        ),
        migrations.AddIndex(
            model_name='certificate',
            index=models.Index(condition=models.Q(('lacks__isnull', False)), fields=['lacks', 'owner', 'expires_at', 'id'], name='certificates_held_back'),
        ),
        migrations.AddIndex(
            model_name='certificate',
            index=models.Index(condition=models.Q(('expires_at__isnull', False), ('retired_at__isnull', True)), fields=['expires_at', 'id'], name='certificates_by_expiry'),
        ),
        migrations.AddIndex(
            model_name='certificate',
            index=models.Index(condition=models.Q(('retired_at__isnull', True)), fields=['owner', '-id'], name='certificates_of_owner'),
        ),
        migrations.AddIndex(
            model_name='certificate',
            index=models.Index(condition=models.Q(('retired_at__isnull', True)), fields=['account', 'owner', '-id'], name='certificates_of_account'),
        ),
        migrations.AddIndex(
            model_name='certificate',
            index=models.Index(fields=['domain'], name='certificates_by_domain'),
        ),
        migrations.AddIndex(
            model_name='certificate',
            index=models.Index(condition=models.Q(('retired_at__isnull', False)), fields=['retired_at'], name='certificates_retired'),
        ),
        migrations.AddConstraint(
            model_name='certificate',
            constraint=models.UniqueConstraint(condition=models.Q(('current__isnull', True), ('retired_at__isnull', True)), fields=('owner', 'request_digest'), name='the_same_request_makes_one_certificate'),
        ),
        migrations.AddConstraint(
            model_name='drill',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('account__isnull', False), ('issuer', '')), models.Q(('account__isnull', True), models.Q(('issuer', ''), _negated=True)), _connector='OR'), name='a_drill_is_about_an_issuer_or_an_account'),
        ),
        migrations.AddConstraint(
            model_name='drill',
            constraint=models.UniqueConstraint(condition=models.Q(('ended_at', None), ('stopped_at', None), models.Q(('issuer', ''), _negated=True)), fields=('issuer',), name='one_running_drill_for_each_issuer'),
        ),
        migrations.AddConstraint(
            model_name='drill',
            constraint=models.UniqueConstraint(condition=models.Q(('ended_at', None), ('stopped_at', None)), fields=('account',), name='one_running_drill_for_each_account'),
        ),
        migrations.AddIndex(
            model_name='issuance',
            index=models.Index(condition=models.Q(('wake_at__isnull', False)), fields=['wake_at'], name='issuance_wake_at'),
        ),
        migrations.AddIndex(
            model_name='issuance',
            index=models.Index(condition=models.Q(('queued_at__isnull', False)), fields=['queued_at'], name='issuance_queued_at'),
        ),
        migrations.AddIndex(
            model_name='issuance',
            index=models.Index(condition=models.Q(('wake_at__isnull', False), models.Q(('state', 'presented'), _negated=True)), fields=['wake_at'], name='issuances_steps_due'),
        ),
        migrations.AddIndex(
            model_name='issuance',
            index=models.Index(fields=['names_key'], name='issuances_by_names'),
        ),
        migrations.AddIndex(
            model_name='issuance',
            index=models.Index(condition=models.Q(('order_url', ''), _negated=True), fields=['account', 'order_url'], name='issuances_by_order'),
        ),
        migrations.AddIndex(
            model_name='issuance',
            index=models.Index(fields=['certificate', '-id'], name='issuances_of_certificate'),
        ),
        migrations.AddIndex(
            model_name='issuance',
            index=models.Index(fields=['state', 'ended_at'], name='issuances_by_end'),
        ),
        migrations.AddIndex(
            model_name='issuance',
            index=models.Index(condition=models.Q(('proves', True)), fields=['ended_at'], name='issuances_at_staging'),
        ),
        migrations.AddConstraint(
            model_name='issuance',
            constraint=models.UniqueConstraint(condition=models.Q(('wake_at__isnull', False)), fields=('certificate',), name='one_open_issuance_per_certificate'),
        ),
        migrations.AddConstraint(
            model_name='issuance',
            constraint=models.UniqueConstraint(condition=models.Q(('wake_at__isnull', False), models.Q(('order_url', ''), _negated=True)), fields=('account', 'order_url'), name='one_open_issuance_per_order'),
        ),
        migrations.AddConstraint(
            model_name='issuance',
            constraint=models.CheckConstraint(condition=models.Q(models.Q(('state__in', ['queued', 'ordered', 'presented', 'propagated', 'validated', 'finalized']), ('wake_at__isnull', False)), models.Q(('state__in', ['issued', 'failed', 'canceled']), ('wake_at__isnull', True)), _connector='OR'), name='an_issuance_wakes_as_long_as_it_is_open'),
        ),
        migrations.AddIndex(
            model_name='certificateversion',
            index=models.Index(condition=models.Q(('wake_at__isnull', False)), fields=['wake_at'], name='certificateversion_wake_at'),
        ),
        migrations.AddIndex(
            model_name='certificateversion',
            index=models.Index(condition=models.Q(('queued_at__isnull', False)), fields=['queued_at'], name='certificateversion_queued_at'),
        ),
        migrations.AddIndex(
            model_name='certificateversion',
            index=models.Index(fields=['issuer'], name='versions_by_issuer'),
        ),
        migrations.AddIndex(
            model_name='certificateversion',
            index=models.Index(condition=models.Q(('key__isnull', False)), fields=['not_after'], name='versions_with_key'),
        ),
        migrations.AddIndex(
            model_name='certificateversion',
            index=models.Index(condition=models.Q(('key__isnull', True)), fields=['not_after'], name='versions_without_key'),
        ),
        migrations.AddConstraint(
            model_name='certificateversion',
            constraint=models.CheckConstraint(condition=models.Q(('revoke_asked_at__isnull', True), ('revoked_at__isnull', False), ('wake_at__isnull', False), _connector='OR'), name='a_revocation_that_was_asked_for_wakes_until_it_is_done'),
        ),
        migrations.AddConstraint(
            model_name='authorization',
            constraint=models.UniqueConstraint(fields=('issuance', 'url'), name='one_row_per_authorization'),
        ),
        migrations.AddIndex(
            model_name='issuanceevent',
            index=models.Index(fields=['issuance', 'id'], name='events_of_issuance'),
        ),
        migrations.AddIndex(
            model_name='renewalinfo',
            index=models.Index(condition=models.Q(('wake_at__isnull', False)), fields=['wake_at'], name='renewalinfo_wake_at'),
        ),
        migrations.AddIndex(
            model_name='renewalinfo',
            index=models.Index(condition=models.Q(('queued_at__isnull', False)), fields=['queued_at'], name='renewalinfo_queued_at'),
        ),
        migrations.AddIndex(
            model_name='renewalinfo',
            index=models.Index(condition=models.Q(('wake_at__isnull', True)), fields=['created_at'], name='renewal_infos_over'),
        ),
        migrations.AddConstraint(
            model_name='requestkey',
            constraint=models.UniqueConstraint(fields=('owner', 'key'), name='one_request_per_idempotency_key'),
        ),
        migrations.AddIndex(
            model_name='reservation',
            index=models.Index(condition=models.Q(('state', 'waiting')), fields=['lacks'], name='reservations_waiting'),
        ),
        migrations.AddConstraint(
            model_name='reservedtoken',
            constraint=models.UniqueConstraint(fields=('reservation', 'bucket'), name='a_bucket_once_a_reservation'),
        ),
        migrations.CreateModel(
            name='CertificateTag',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('tag', models.CharField(db_index=True, max_length=64)),
                ('assigned_at', models.DateTimeField(auto_now_add=True)),
                ('certificate', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='tags', to='issuance.certificate')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('certificate', 'tag'), name='a_certificate_has_a_tag_once')],
            },
        ),
        migrations.CreateModel(
            name='Deployment',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('by_tag', models.BooleanField(default=False, help_text='a tag of the device assigned it; it goes with the tag')),
                ('assigned_at', models.DateTimeField(auto_now_add=True)),
                ('certificate', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='deployments', to='issuance.certificate')),
                ('device', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='deployments', to='devices.device')),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('certificate', 'device'), name='a_certificate_is_on_a_device_once')],
            },
        ),
        migrations.CreateModel(
            name='TrustedCA',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('assigned_at', models.DateTimeField(auto_now_add=True)),
                ('device', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='trusted_cas', to='devices.device')),
                ('private_ca', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='trusting_devices', to='authorities.privateca')),
            ],
            options={
                'verbose_name': 'trusted CA',
                'constraints': [models.UniqueConstraint(fields=('device', 'private_ca'), name='a_device_trusts_a_ca_once')],
            },
        ),
    ]
