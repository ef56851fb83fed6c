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
            name='ApiBucket',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('key', models.CharField(help_text='the provider, and the account whose calls are counted', max_length=128, unique=True)),
                ('full_at', models.DateTimeField(help_text='when the bucket is full again')),
            ],
        ),
        migrations.CreateModel(
            name='DisabledProvider',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('provider', models.CharField(max_length=32, unique=True)),
                ('disabled_at', models.DateTimeField()),
                ('why', models.CharField(help_text='a sentence that every owner may read', max_length=200)),
                ('by', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.SET_NULL, related_name='+', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='DnsCredential',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64)),
                ('provider', models.CharField(max_length=32)),
                ('public', models.JSONField(default=dict, help_text="the provider's fields that are not secret")),
                ('party', models.CharField(blank=True, default='', editable=False, help_text='the host that is called, where each credential has its own', max_length=255)),
                ('ttl', models.PositiveIntegerField(default=60, help_text='seconds')),
                ('propagation_check', models.CharField(choices=[('authoritative', 'Authoritative'), ('recursive', 'Recursive'), ('off', 'Off')], default='authoritative', max_length=16)),
                ('propagation_timeout', models.PositiveIntegerField(default=1800, help_text='seconds')),
                ('settle', models.PositiveIntegerField(default=0, help_text='seconds to wait after the last server shows a record')),
                ('checked_at', models.DateTimeField(blank=True, null=True)),
                ('last_error', certctrl.sentences.SentenceField(blank=True)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('retired_at', models.DateTimeField(blank=True, null=True)),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='dns_credentials', to=settings.AUTH_USER_MODEL)),
                ('secret', models.ForeignKey(editable=False, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='+', to='keystore.envelope')),
                ('disablement', models.ForeignObject(editable=False, from_fields=['provider'], null=True, on_delete=django.db.models.deletion.DO_NOTHING, related_name='+', to='dnsproviders.disabledprovider', to_fields=['provider'])),
            ],
        ),
        migrations.CreateModel(
            name='TxtRecord',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('wake_at', models.DateTimeField(blank=True, null=True)),
                ('holder', models.CharField(blank=True, default='', editable=False, max_length=32)),
                ('queued_at', models.DateTimeField(blank=True, editable=False, null=True)),
                ('stumbles', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('deaths', models.PositiveSmallIntegerField(default=0, editable=False)),
                ('zone', models.CharField(blank=True, help_text='the id of the zone at the provider', max_length=255)),
                ('name', models.CharField(help_text='the name of the record after CNAMEs, without the last dot', max_length=255)),
                ('value', models.CharField(max_length=255)),
                ('intent_at', models.DateTimeField(blank=True, null=True)),
                ('presented_at', models.DateTimeField(blank=True, null=True)),
                ('cleaned_at', models.DateTimeField(blank=True, null=True)),
                ('unsure_until', models.DateTimeField(blank=True, null=True)),
                ('left_behind', certctrl.sentences.SentenceField(blank=True, help_text='why the last cleanup failed')),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('credential', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='records', to='dnsproviders.dnscredential')),
            ],
            options={
                'abstract': False,
                'indexes': [models.Index(condition=models.Q(('wake_at__isnull', False)), fields=['wake_at'], name='txtrecord_wake_at'), models.Index(condition=models.Q(('queued_at__isnull', False)), fields=['queued_at'], name='txtrecord_queued_at'), models.Index(fields=['name', 'value'], name='records_by_name_and_value'), models.Index(condition=models.Q(('wake_at__isnull', True)), fields=['created_at'], name='records_over')],
                'constraints': [models.UniqueConstraint(fields=('credential', 'name', 'value'), name='one_row_per_txt_record'), models.CheckConstraint(condition=models.Q(('intent_at__isnull', True), ('cleaned_at__isnull', False), ('wake_at__isnull', False), _connector='OR'), name='an_intended_record_wakes_until_it_is_cleaned')],
            },
        ),
    ]
