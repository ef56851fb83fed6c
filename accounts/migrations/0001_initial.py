import accounts.models
import accounts.quotas
import django.db.models.deletion
import django.db.models.functions.text
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


# The database itself refuses to change or remove an audit event, with two exceptions: an event is
# sealed once, and an event that an `audit.archived` event covers may be removed. SQLite fires no
# trigger for the rows that its OR REPLACE deletes, so an UPDATE or INSERT that would replace one is
# refused too.
FORBID = {
    "postgresql": ["""
CREATE FUNCTION accounts_auditevent_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP = 'UPDATE' AND OLD.place IS NULL AND NEW.place IS NOT NULL
        AND (NEW.id, NEW.at, NEW.owner_id, NEW.actor, NEW.action, NEW.object, NEW.ip, NEW.detail)
        IS NOT DISTINCT FROM
        (OLD.id, OLD.at, OLD.owner_id, OLD.actor, OLD.action, OLD.object, OLD.ip, OLD.detail)
    THEN
        RETURN NEW;
    END IF;
    IF TG_OP = 'DELETE' AND EXISTS (
        SELECT 1 FROM accounts_auditevent
        WHERE action = 'audit.archived' AND (detail->>'last')::bigint >= OLD.place
    ) THEN
        RETURN OLD;
    END IF;
    RAISE EXCEPTION 'accounts_auditevent is append-only';
END $$;
CREATE TRIGGER accounts_auditevent_is_append_only BEFORE UPDATE OR DELETE ON accounts_auditevent
    FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_is_append_only();
"""],
    "sqlite": ["""
CREATE TRIGGER accounts_auditevent_is_not_changed BEFORE UPDATE ON accounts_auditevent
WHEN NOT (
    OLD.place IS NULL AND NEW.place IS NOT NULL AND NEW.id IS OLD.id AND NEW.at IS OLD.at
    AND NEW.owner_id IS OLD.owner_id AND NEW.actor IS OLD.actor AND NEW.action IS OLD.action
    AND NEW.object IS OLD.object AND NEW.ip IS OLD.ip AND NEW.detail IS OLD.detail
    AND NOT EXISTS (SELECT 1 FROM accounts_auditevent WHERE place = NEW.place)
)
BEGIN
    SELECT RAISE(ABORT, 'accounts_auditevent is append-only');
END;
""", """
CREATE TRIGGER accounts_auditevent_is_not_removed BEFORE DELETE ON accounts_auditevent
WHEN NOT EXISTS (
    SELECT 1 FROM accounts_auditevent
    WHERE action = 'audit.archived' AND json_extract(detail, '$.last') >= OLD.place
)
BEGIN
    SELECT RAISE(ABORT, 'accounts_auditevent is append-only');
END;
""", """
CREATE TRIGGER accounts_auditevent_is_not_replaced BEFORE INSERT ON accounts_auditevent
WHEN EXISTS (SELECT 1 FROM accounts_auditevent WHERE id = NEW.id OR place = NEW.place)
BEGIN
    SELECT RAISE(ABORT, 'accounts_auditevent is append-only');
END;
"""],
}
ALLOW = {
    "postgresql": ["""
DROP TRIGGER accounts_auditevent_is_append_only ON accounts_auditevent;
DROP FUNCTION accounts_auditevent_is_append_only();
"""],
    "sqlite": [
        "DROP TRIGGER accounts_auditevent_is_not_changed",
        "DROP TRIGGER accounts_auditevent_is_not_removed",
        "DROP TRIGGER accounts_auditevent_is_not_replaced",
    ],
}


def forbid(apps, schema_editor):
    for statement in FORBID[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


def allow(apps, schema_editor):
    for statement in ALLOW[schema_editor.connection.vendor]:
        schema_editor.execute(statement)


class Migration(migrations.Migration):

    initial = True

    dependencies = [
        ('auth', '0012_alter_user_first_name_max_length'),
    ]

    operations = [
        migrations.CreateModel(
            name='User',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('password', models.CharField(max_length=128, verbose_name='password')),
                ('last_login', models.DateTimeField(blank=True, null=True, verbose_name='last login')),
                ('is_superuser', models.BooleanField(default=False, help_text='Designates that this user has all permissions without explicitly assigning them.', verbose_name='superuser status')),
                ('first_name', models.CharField(blank=True, max_length=150, verbose_name='first name')),
                ('last_name', models.CharField(blank=True, max_length=150, verbose_name='last name')),
                ('is_staff', models.BooleanField(default=False, help_text='Designates whether the user can log into this admin site.', verbose_name='staff status')),
                ('is_active', models.BooleanField(default=True, help_text='Designates whether this user should be treated as active. Unselect this instead of deleting accounts.', verbose_name='active')),
                ('date_joined', models.DateTimeField(default=django.utils.timezone.now, verbose_name='date joined')),
                ('email', models.EmailField(max_length=254, unique=True, verbose_name='e-mail address')),
                ('name', models.CharField(blank=True, max_length=64)),
                ('country_of_residence', models.CharField(blank=True, max_length=2)),
                ('language', models.CharField(choices=[('en', 'English'), ('zh-hans', '简体中文')], default='en', help_text='of the mails to this user', max_length=16)),
                ('kind', models.CharField(choices=[('person', 'Person'), ('team', 'Team')], default='person', max_length=8)),
                ('quotas', models.JSONField(blank=True, default=dict, help_text='limits other than the default, as JSON: {"certificates": 9}; null: no limit', validators=[accounts.quotas.validate])),
                ('groups', models.ManyToManyField(blank=True, help_text='The groups this user belongs to. A user will get all permissions granted to each of their groups.', related_name='user_set', related_query_name='user', to='auth.group', verbose_name='groups')),
                ('user_permissions', models.ManyToManyField(blank=True, help_text='Specific permissions for this user.', related_name='user_set', related_query_name='user', to='auth.permission', verbose_name='user permissions')),
            ],
            options={
                'constraints': [models.UniqueConstraint(django.db.models.functions.text.Lower('email'), name='one_user_for_each_email', violation_error_message='Another user has this e-mail address. Choose another.')],
            },
            managers=[
                ('objects', accounts.models.EmailUserManager()),
            ],
        ),
        migrations.CreateModel(
            name='ApiKey',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64)),
                ('prefix', models.CharField(max_length=16)),
                ('digest', models.CharField(editable=False, max_length=64, unique=True)),
                ('permissions', models.JSONField(default=list)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('expires_at', models.DateTimeField()),
                ('revoked_at', models.DateTimeField(blank=True, null=True)),
                ('last_used_at', models.DateTimeField(blank=True, null=True)),
                ('owner', models.ForeignKey(on_delete=django.db.models.deletion.CASCADE, related_name='api_keys', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'API key',
            },
        ),
        migrations.CreateModel(
            name='SavedView',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('name', models.CharField(max_length=64)),
                ('query', models.CharField(max_length=1000)),
                ('created_at', models.DateTimeField(auto_now_add=True)),
                ('owner', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.CASCADE, related_name='saved_views', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'constraints': [models.UniqueConstraint(fields=('owner', 'name'), name='an_owner_names_a_view_once')],
            },
        ),
        migrations.CreateModel(
            name='AuditEvent',
            fields=[
                ('id', models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name='ID')),
                ('at', models.DateTimeField(auto_now_add=True)),
                ('actor', models.CharField(max_length=254)),
                ('action', models.CharField(max_length=64)),
                ('object', models.CharField(max_length=254)),
                ('ip', models.GenericIPAddressField(blank=True, null=True)),
                ('detail', models.JSONField(default=dict)),
                ('place', models.BigIntegerField(blank=True, editable=False, help_text='in the chain, from 1; empty until the event is sealed', null=True, unique=True)),
                ('previous_hash', models.CharField(blank=True, editable=False, max_length=64)),
                ('hash', models.CharField(blank=True, editable=False, help_text='SHA-256 of the event and the one before', max_length=64)),
                ('owner', models.ForeignKey(db_index=False, on_delete=django.db.models.deletion.PROTECT, related_name='audit_events', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'indexes': [models.Index(fields=['owner', '-at'], name='audit_of_owner'), models.Index(fields=['owner', '-id'], name='audit_of_owner_by_id'), models.Index(condition=models.Q(('place', None)), fields=['id'], name='audit_not_sealed'), models.Index(condition=models.Q(('action', 'audit.archived')), fields=['action'], name='audit_archives')],
                'constraints': [models.CheckConstraint(condition=models.Q(models.Q(('hash', ''), ('place', None), ('previous_hash', '')), models.Q(('place__isnull', False), models.Q(('previous_hash', ''), _negated=True), models.Q(('hash', ''), _negated=True)), _connector='OR'), name='a_sealed_event_has_its_hashes')],
            },
        ),
        migrations.CreateModel(
            name='Session',
            fields=[
                ('session_key', models.CharField(max_length=40, primary_key=True, serialize=False, verbose_name='session key')),
                ('session_data', models.TextField(verbose_name='session data')),
                ('expire_date', models.DateTimeField(db_index=True, verbose_name='expire date')),
                ('ip', models.GenericIPAddressField(help_text='the address of the sign-in', null=True)),
                ('agent', models.CharField(blank=True, help_text='the browser or program', max_length=200)),
                ('seen_at', models.DateTimeField()),
                ('user', models.ForeignKey(null=True, on_delete=django.db.models.deletion.CASCADE, related_name='sessions', to=settings.AUTH_USER_MODEL)),
            ],
            options={
                'verbose_name': 'session',
                'verbose_name_plural': 'sessions',
                'abstract': False,
            },
        ),
        migrations.RunPython(forbid, allow),
    ]
