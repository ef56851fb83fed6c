from django.apps import AppConfig


class DnsprovidersConfig(AppConfig):
    name = "dnsproviders"

    def ready(self) -> None:
        from dnsproviders import registry

        registry.check_api_limits()
