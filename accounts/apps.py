from django.apps import AppConfig


class AccountsConfig(AppConfig):
    name = "accounts"

    def ready(self) -> None:
        from accounts import quotas

        quotas.check_setting()  # a wrong QUOTAS must fail at the start
