"""The addresses of the pages. The API's are below /apiv1, the operator's below /admin."""

from django.urls import path

from certctrl import api  # noqa: F401  (registers the path converters)
from dashboard import (
    approving,
    attempts,
    auditing,
    bulk,
    certificate,
    certificates,
    devices,
    diagnosis,
    exchanges,
    finding,
    importing,
    issuing,
    overview,
    personal,
    setup,
    signing,
    streams,
    telling,
)

AN_ATTEMPT = "certificates/<id:pk>/attempts/<id:attempt_id>"

urlpatterns = [
    path("", overview.Overview.as_view(), name="overview"),
    path("language", personal.Language.as_view(), name="language"),
    path("theme", finding.Theme.as_view(), name="theme"),
    path("diagnosis", diagnosis.Diagnosis.as_view(), name="diagnosis"),
    path("find", finding.Find.as_view(), name="find"),
    path("sign-in", signing.SignIn.as_view(), name="sign-in"),
    path("sign-in/openid", signing.OpenID.as_view(), name="openid"),
    path("sign-in/openid/back", signing.OpenIDBack.as_view(), name="openid-back"),
    path("sign-in/link", signing.SignInByLink.as_view(), name="sign-in-by-link"),
    path("register", signing.Register.as_view(), name="register"),
    path("register/code", signing.Activate.as_view(), name="activate"),
    path("reset", signing.RequestReset.as_view(), name="request-reset"),
    path("reset/code", signing.Reset.as_view(), name="reset"),
    path("confirm", signing.Confirm.as_view(), name="confirm"),
    path("settings", personal.Settings.as_view(), name="settings"),
    path("settings/second-factor", personal.SecondFactorPage.as_view(), name="second-factor"),
    path("settings/<str:action>", personal.Settings.as_view(), name="settings-action"),
    path("sign-out", signing.SignOut.as_view(), name="sign-out"),
    path("device", approving.ApprovePage.as_view(), name="approve"),
    path("certificates", certificates.CertificateList.as_view(), name="certificates"),
    path("certificates/bulk", bulk.BulkPage.as_view(), name="certificates-bulk"),
    path("certificates/import", importing.ImportPage.as_view(), name="import"),
    path("views", certificates.ViewSaved.as_view(), name="views"),
    path("views/<id:pk>", certificates.ViewSaved.as_view(), name="view-action"),
    path("issue", issuing.Issue.as_view(), name="issue"),
    path("issue/names", issuing.IssueNames.as_view(), name="issue-names"),
    path("certificates/<id:pk>", certificate.CertificatePage.as_view(), name="certificate"),
    *(
        path(
            f"certificates/<id:pk>/{action}",
            certificate.CertificateAction.as_view(),
            {"action": action},
            name=f"certificate-{action}",
        )
        for action in certificate.ACTIONS
    ),
    path(
        "certificates/<id:pk>/files/<str:name>",
        certificate.Download.as_view(),
        name="certificate-file",
    ),
    path(AN_ATTEMPT, attempts.AttemptPage.as_view(), name="attempt"),
    path(f"{AN_ATTEMPT}/part", attempts.AttemptPart.as_view(), name="attempt-part"),
    path(f"{AN_ATTEMPT}/stream", streams.AttemptStream.as_view(), name="attempt-stream"),
    path(f"{AN_ATTEMPT}/exchanges", exchanges.Exchanges.as_view(), name="attempt-exchanges"),
    path("devices", devices.DeviceList.as_view(), name="devices"),
    path("devices/enrolment-keys", devices.EnrolmentKeys.as_view(), name="enrolment-keys"),
    path(
        "devices/enrolment-keys/<id:pk>/<str:action>",
        devices.EnrolmentKeys.as_view(),
        name="enrolment-key-action",
    ),
    path("devices/<id:pk>", devices.DevicePage.as_view(), name="device"),
    *(
        path(
            f"devices/<id:pk>/{action}",
            devices.DeviceAction.as_view(),
            {"action": action},
            name=f"device-{action}",
        )
        for action in devices.ACTIONS
    ),
    path("notices", telling.NoticeList.as_view(), name="notices"),
    path("notices/settings", telling.NoticeSettingsPage.as_view(), name="notice-settings"),
    path(
        "notices/settings/<str:action>",
        telling.NoticeSettingsPage.as_view(),
        name="notice-settings-action",
    ),
    path("webhooks", telling.Webhooks.as_view(), name="webhooks"),
    path("webhooks/<id:pk>/<str:action>", telling.Webhooks.as_view(), name="webhook-action"),
    path("audit", auditing.AuditList.as_view(), name="audit"),
    path("audit.jsonl", auditing.AuditFile.as_view(), name="audit-file"),
    path("dns-credentials", setup.DnsCredentials.as_view(), name="dns-credentials"),
    path("dns-credentials/<id:pk>/<str:action>", setup.DnsCredentials.as_view(), name="dns-action"),
    path("accounts", setup.Accounts.as_view(), name="accounts"),
    path("accounts/<id:pk>/<str:action>", setup.Accounts.as_view(), name="account-action"),
    path("private-cas", setup.PrivateCAs.as_view(), name="private-cas"),
    path("private-cas/<id:pk>/certificate.pem", setup.CAFile.as_view(), name="private-ca-file"),
    path("private-cas/<id:pk>/issued.csv", setup.CAIssued.as_view(), name="private-ca-issued"),
    path("private-cas/<id:pk>/<str:action>", setup.PrivateCAs.as_view(), name="private-ca-action"),
    path("api-keys", setup.ApiKeys.as_view(), name="api-keys"),
    path("api-keys/<id:pk>/<str:action>", setup.ApiKeys.as_view(), name="api-key-action"),
]
