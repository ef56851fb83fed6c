from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("issuance", "0008_busy"),
    ]

    operations = [
        migrations.AddField(
            model_name="issuance",
            name="deaf",
            field=models.JSONField(
                blank=True, default=list, help_text="name servers that the preflight found not to answer for their zone"
            ),
        ),
    ]
