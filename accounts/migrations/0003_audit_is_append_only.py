"""PostgreSQL itself refuses to change or remove an audit event. TRUNCATE stays possible: tests empty tables with it.

SQLite has no such trigger: there, emptying a table between tests is a DELETE; the models refuse alone.
"""

from django.db import migrations

FORBID = """
CREATE FUNCTION accounts_auditevent_is_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    RAISE EXCEPTION 'accounts_auditevent is append-only';
END $$;
CREATE TRIGGER accounts_auditevent_is_append_only BEFORE UPDATE OR DELETE ON accounts_auditevent
    FOR EACH ROW EXECUTE FUNCTION accounts_auditevent_is_append_only();
"""
ALLOW = """
DROP TRIGGER accounts_auditevent_is_append_only ON accounts_auditevent;
DROP FUNCTION accounts_auditevent_is_append_only();
"""


def forbid(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(FORBID)


def allow(apps, schema_editor):
    if schema_editor.connection.vendor == "postgresql":
        schema_editor.execute(ALLOW)


class Migration(migrations.Migration):
    dependencies = [("accounts", "0002_api_key_words")]
    operations = [migrations.RunPython(forbid, allow)]
