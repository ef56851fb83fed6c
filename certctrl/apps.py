from django.apps import AppConfig


class CertctrlConfig(AppConfig):
    name = "certctrl"

    def ready(self) -> None:
        from certctrl import adminwords, log

        log.configure()  # for every process, management commands too
        adminwords.apply()
