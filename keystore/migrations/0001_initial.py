import django.db.models.deletion
import uuid
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        migrations.swappable_dependency(settings.AUTH_USER_MODEL),
    ]

    operations = [
        migrations.CreateModel(
            name='Envelope',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('uuid', models.UUIDField(default=uuid.uuid4, editable=False, unique=True)),
                ('purpose', models.CharField(editable=False, max_length=32)),
                ('policy', models.CharField(choices=[('MASTER_ONLY', 'Master Only'), ('HYBRID', 'Hybrid'), ('DEVICE_REQUIRED', 'Device Required')], editable=False, max_length=16)),
                ('nonce', models.BinaryField(max_length=12)),
                ('ciphertext', models.BinaryField()),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='envelopes', to=settings.AUTH_USER_MODEL)),
            ],
        ),
        migrations.CreateModel(
            name='RecipientKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('public_key', models.BinaryField(max_length=32)),
                ('fingerprint', models.BinaryField(help_text='BLAKE2b, 32 bytes, of the public key', max_length=32)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('retired_at', models.DateTimeField(blank=True, null=True)),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.PROTECT, related_name='recipient_keys', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('owner', 'fingerprint'), name='one_recipient_key_per_fingerprint')],
            },
        ),
        migrations.CreateModel(
            name='KeyWrap',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('master_key_id', models.CharField(blank=True, max_length=32, null=True)),
                ('wrapped_dek', models.BinaryField()),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('envelope', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='wraps', to='keystore.envelope')),
                ('recipient_key', models.ForeignKey(blank=True, null=True, on_delete=django.db.models.deletion.PROTECT, related_name='wraps', to='keystore.recipientkey')),
            ],
            options={
                'constraints': [models.CheckConstraint(condition=models.Q(('master_key_id__isnull', True), ('recipient_key__isnull', True), _connector='XOR'), name='a_wrap_has_exactly_one_recipient'), models.UniqueConstraint(condition=models.Q(('master_key_id__isnull', False)), fields=('envelope',), name='one_master_wrap_per_envelope'), models.UniqueConstraint(fields=('envelope', 'recipient_key'), name='one_wrap_per_recipient_key')],
            },
        ),
    ]
