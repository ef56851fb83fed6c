from django.apps import AppConfig


class AuthoritiesConfig(AppConfig):
    name = "authorities"

    def ready(self) -> None:
        from authorities import catalog

        catalog.known()  # what ACME_CAS has wrong is told at the start, and not by the first sweep
