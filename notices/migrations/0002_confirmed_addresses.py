from django.db import migrations, models


def keep_those_in_use(apps, schema_editor):
    """Warnings that reach somebody go on reaching them; only new addresses are asked."""
    apps.get_model("notices", "NoticeSettings").objects.update(confirmed_email=models.F("email"))


class Migration(migrations.Migration):
    dependencies = [
        ('notices', '0001_initial'),
    ]

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
        migrations.RunPython(keep_those_in_use, migrations.RunPython.noop),
    ]
