from django.apps import AppConfig


class DnsprovidersConfig(AppConfig):
    name = "dnsproviders"
