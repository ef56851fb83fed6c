"""The Django app of accounts, private CAs and exchanges."""

from django.apps import AppConfig


class AuthoritiesConfig(AppConfig):
    name = "authorities"

    def ready(self) -> None:
        from authorities import catalog

        # Raises ImproperlyConfigured for a wrong ACME_CAS at the start, before the first sweep.
        catalog.known()
