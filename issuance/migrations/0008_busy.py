from django.db import migrations, models


class Migration(migrations.Migration):

    dependencies = [
        ('issuance', '0007_notices'),
    ]

    operations = [
        migrations.AlterField(
            model_name='limitbucket',
            name='kind',
            field=models.CharField(choices=[('account', 'Account'), ('domain', 'Domain'), ('set', 'Set'), ('failures', 'Failures'), ('busy', 'Busy')], max_length=8),
        ),
    ]
