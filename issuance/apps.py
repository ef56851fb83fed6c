from django.apps import AppConfig


class IssuanceConfig(AppConfig):
    name = "issuance"

    def ready(self) -> None:
        from authorities import catalog
        from devices.changes import changed
        from issuance.services import follow_device

        catalog.known()  # report errors in ACME_CAS at the start, and not in the first sweep
        changed.connect(follow_device)
