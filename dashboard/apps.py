"""The app of the pages: its templates, static files and translations."""

from django.apps import AppConfig


class DashboardConfig(AppConfig):
    name = "dashboard"
