from django.apps import AppConfig


class IssuanceConfig(AppConfig):
    name = "issuance"

    def ready(self) -> None:
        from authorities import catalog

        catalog.known()  # what ACME_CAS has wrong is told at the start, and not by the first sweep
