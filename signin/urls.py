"""Paths below /auth."""

from django.urls import path

from signin import api

urlpatterns = [
    path("", api.General.as_view()),
    path("/general", api.General.as_view()),
    path("/logout", api.Logout.as_view()),
    path("/status", api.LogInStatus.as_view()),
    path("/profile", api.Profile.as_view()),
    path("/sessions", api.Sessions.as_view()),
    path("/sessions/<str:session_id>", api.OneSession.as_view()),
]
