from django.apps import AppConfig


class CertctrlConfig(AppConfig):
    name = "certctrl"
