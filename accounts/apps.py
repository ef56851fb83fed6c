from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import quotas

        quotas.check_setting()  # what QUOTAS has wrong is told at the start
