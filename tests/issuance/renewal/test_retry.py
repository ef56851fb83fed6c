"""The class of a failure sets the time of the next attempt. A renewal never stops for good."""

from datetime import UTC, datetime, timedelta

import pytest

from certctrl.turns import Trouble
from issuance import services
from issuance.beat import renewals
from issuance.models import Certificate, Issuance
from issuance.renewal import retry, schedule
from tests.issuance.failing import CAA, FOR_GOOD, fail, issued, last, limit, read, try_again

State = Issuance.State
Failure = Issuance.Failure
NOW = datetime(2027, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)


def begin(world, account, credential, problem: Exception) -> Certificate:
    """A first issuance whose first attempt fails."""
    world.ca.problems["new_order"] = [problem]
    certificate, _ = world.create(account, credential)
    world.deliver()
    return read(certificate)


# --- the class ---


@pytest.mark.parametrize(
    ("trouble", "hours", "failure"),
    [
        (CAA, None, Failure.TRANSIENT),
        (FOR_GOOD, None, Failure.PERMANENT),
        (FOR_GOOD, 9, Failure.PERMANENT),
        (limit(8), 8, Failure.LIMITED),
        (limit(0.1), 0.1, Failure.LIMITED),
        (limit(8, "ca_limit_wait"), 8, Failure.LIMITED),
        (Trouble("wait_too_long", "Later."), 7, Failure.LIMITED),
        (Trouble("ca_error", "HTTP 503"), 3, Failure.LIMITED),
        (Trouble("ca_error", "HTTP 503"), 0.5, Failure.TRANSIENT),
        (Trouble("dns_rate_limited", "Slowly."), 30, Failure.LIMITED),
    ],
)
def test_the_failure_class_follows_from_the_code_and_the_retry_time(trouble, hours, failure):
    """By the retry table it would be retried in an hour."""
    asked_for = None if hours is None else NOW + hours * HOUR
    assert retry.class_of(trouble, asked_for, NOW + HOUR) == failure


@pytest.mark.django_db
@pytest.mark.parametrize(
    ("problem", "failure"), [(CAA, "transient"), (FOR_GOOD, "permanent"), (limit(8), "limited")]
)
def test_the_attempt_keeps_its_class(world, account, credential, problem, failure):
    begin(world, account, credential, problem)
    assert last().failure == failure


# --- a limit's moment ---


@pytest.mark.django_db
@pytest.mark.parametrize("hours", [8, 72, 21 * 24])
def test_a_first_issuance_is_retried_when_the_limit_allows_it(world, account, credential, hours):
    certificate = begin(world, account, credential, limit(hours, "ca_limit_wait"))
    late = certificate.renew_at - world.time - hours * HOUR
    assert timedelta(0) <= late <= schedule.LIMIT_SPREAD
    assert (certificate.failures, certificate.failing_since) == (0, None)
    assert certificate.status == "pending"


@pytest.mark.django_db
def test_three_weeks_in_a_queue_do_not_use_up_the_week_of_a_first_issuance(
    world, account, credential
):
    certificate = begin(world, account, credential, CAA)
    for _ in range(21):
        try_again(world, limit(24, "ca_limit_wait"))
    try_again(world, CAA)
    assert read(certificate).renew_at
    assert read(certificate).failures == 2, "the table goes on where it was"
    assert read(certificate).renew_at - world.time < 3 * HOUR


@pytest.mark.django_db
def test_a_first_issuance_that_fails_for_a_week_asks_for_a_person(world, account, credential):
    certificate = begin(world, account, credential, CAA)
    began = world.time
    while read(certificate).renew_at:
        try_again(world, CAA)
    assert DAY * 7 < world.time - began < DAY * 9
    assert read(certificate).status == "failed"


@pytest.mark.django_db
def test_a_rate_limit_between_two_failures_keeps_their_count(world, account, credential):
    certificate = issued(world, account, credential)
    fail(world, 2)
    failing_since = read(certificate).failing_since
    try_again(world, limit(8))
    assert read(certificate).failures == 2
    assert read(certificate).failing_since - failing_since >= 8 * HOUR, (
        "the wait is not held against the CA"
    )
    fail(world, 1)
    assert read(certificate).failures == 3


@pytest.mark.django_db
def test_a_certificate_that_cannot_wait_for_the_limit_is_tried_earlier(world, account, credential):
    certificate = issued(world, account, credential)
    Certificate.objects.update(renew_at=certificate.expires_at - 4 * DAY)
    try_again(world, limit(5 * 24))
    certificate = read(certificate)
    assert certificate.renew_at == world.time + DAY, "a quarter of what is left"
    assert (certificate.failures, certificate.failing_since) == (0, world.time)


@pytest.mark.parametrize(
    ("left", "asked", "pause"),
    [
        (None, 10 * DAY, 10 * DAY),
        (None, timedelta(minutes=1), schedule.LEAST_RETRY),
        (40 * DAY, 9 * DAY, 9 * DAY),
        (40 * DAY, 11 * DAY, 10 * DAY),
        (2 * HOUR, 8 * HOUR, HOUR),
        (-DAY, 8 * HOUR, HOUR),
    ],
)
def test_the_limit_sets_the_retry_within_a_quarter_of_the_time_left(left, asked, pause):
    expires_at = None if left is None else NOW + left
    for failures in (1, 9):
        at = schedule.retry_at(
            NOW,
            failures,
            expires_at,
            first_tried_at=NOW - 30 * DAY,
            asked_for=NOW + asked,
            limited=True,
            jitter=0,
        )
        assert at == NOW + pause


def test_retries_with_the_same_retry_after_are_spread():
    moments = {
        schedule.retry_at(
            NOW, 1, None, first_tried_at=NOW, asked_for=NOW + DAY, limited=True, jitter=each
        )
        for each in (0, 0.5, 1)
    }
    assert len(moments) == 3
    assert min(moments) == NOW + DAY


# --- in a row ---


@pytest.mark.django_db
def test_failing_since_is_the_first_failure_in_a_row_and_ends_with_success(
    world, account, credential
):
    certificate = issued(world, account, credential)
    fail(world, 1)
    first = world.time
    fail(world, 2)
    assert read(certificate).failing_since == first
    try_again(world)
    assert (read(certificate).failing_since, read(certificate).failures) == (None, 0)


@pytest.mark.django_db
def test_another_account_did_not_fail_yet(world, account, credential, owner):
    certificate = issued(world, account, credential)
    fail(world, 3)
    Certificate.objects.update(proved_at=world.time)
    services.update_certificate(
        read(certificate), {"account": world.account(owner, name="another")}
    )
    assert (
        read(certificate).failures,
        read(certificate).failing_since,
        read(certificate).proved_at,
    ) == (0, None, None)


@pytest.mark.slow
@pytest.mark.django_db
@pytest.mark.parametrize(
    "problem",
    [
        CAA,
        FOR_GOOD,
        limit(21 * 24, "ca_limit_wait"),
        Trouble("ca_error", "HTTP 503", retry_after=7 * 86400),
        Trouble("dns_rate_limited", "Slowly.", retry_after=9 * 3600),
    ],
    ids=["transient", "permanent", "ledger", "Retry-After", "DNS limit"],
)
def test_a_renewal_never_stops_for_good(world, account, credential, problem):
    """Thirty failures last beyond the end of the certificate, and the retries continue."""
    certificate = issued(world, account, credential)
    Certificate.objects.update(renew_at=certificate.expires_at - 3 * DAY)
    for _ in range(30):
        before = world.time
        try_again(world, problem)
        certificate = read(certificate)
        assert certificate.renew_at
        left = max(timedelta(0), certificate.expires_at - before)
        assert schedule.LEAST_RETRY <= certificate.renew_at - world.time <= max(27 * HOUR, left / 4)
    assert world.time > certificate.expires_at
    try_again(world)
    assert read(certificate).status == "active"


@pytest.mark.django_db
def test_a_failure_that_a_person_must_fix_is_tried_once_a_day(world, account, credential):
    certificate = issued(world, account, credential)
    for _ in range(5):
        fail(world, 1, FOR_GOOD)
        assert 21 * HOUR < read(certificate).renew_at - world.time < 27 * HOUR


# --- a person ---


@pytest.mark.django_db
@pytest.mark.parametrize("problem", [CAA, FOR_GOOD])
def test_a_persons_renew_passes_the_backoff(world, account, credential, problem):
    certificate = begin(world, account, credential, problem)
    world.ca.problems.clear()
    services.issue(certificate)
    world.deliver()
    assert last().state == State.ISSUED


@pytest.mark.django_db
def test_a_persons_renew_does_not_pass_the_cas_limit(world, account, credential):
    refusal = Trouble("ca_rate_limited", "too many new orders", retry_after=8 * 3600)
    certificate = begin(world, account, credential, refusal)
    world.ca.problems.clear()
    ordered = world.outside.calls.count("ca.new_order")
    services.issue(certificate)
    world.deliver()
    assert world.outside.calls.count("ca.new_order") == ordered, (
        "it would be refused, so it is not sent"
    )
    assert last().error_code == "ca_limit_wait"
    assert read(certificate).renew_at > world.time + 7 * HOUR


@pytest.mark.django_db
def test_a_persons_renew_never_opens_a_second_attempt(world, account, credential):
    certificate = issued(world, account, credential)
    fail(world, 4)
    world.ca.problems["new_order"] = [Trouble("ca_unreachable", "No answer.")]
    Certificate.objects.update(renew_at=world.time)
    renewals.scan_renewals.run()
    world.sweep()
    opened = last()
    assert opened.is_open
    assert services.issue(read(certificate)) == opened


def test_an_expired_certificate_is_tried_hourly_unless_a_person_is_needed():
    expired = NOW - timedelta(minutes=1)
    began = NOW - timedelta(days=3)
    often = schedule.retry_at(NOW, 8, expired, first_tried_at=began)
    seldom = schedule.retry_at(NOW, 8, expired, first_tried_at=began, permanent=True)
    assert (often - NOW, seldom - NOW) == (timedelta(hours=1), timedelta(hours=24))
