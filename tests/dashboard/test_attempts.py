"""The progress of an attempt, server by server."""

from datetime import timedelta

import pytest

from authorities.errors import Problem
from certctrl import clock
from certctrl.sentences import restored
from certctrl.sentences import sentence as _
from dnsclient.queries import address
from dnsclient.resolver import Server
from dnsproviders import propagation
from dnsproviders.propagation import Look
from issuance.models import Issuance

pytestmark = pytest.mark.django_db
REFUSED = "The CA refused the order for %(domain)s."
NS1, NS2, NS3 = "ns1.example.com (192.0.2.1)", "ns2.example.com (192.0.2.2)", "<b>ns3</b> (::1)"


@pytest.fixture
def look(world, account, credential, monkeypatch):
    """`look(Look(...))` lets the attempt look once more and sees this. It returns the attempt."""
    _certificate, made = world.create(account, credential, "www.example.com")

    def once(seen: Look) -> Issuance:
        monkeypatch.setattr(propagation, "look", lambda rows, s=None: {r.pk: seen for r in rows})
        Issuance.objects.filter(wake_at__isnull=False).update(wake_at=clock.now(), queued_at=None)
        world.sweep()
        return Issuance.objects.get(pk=made.pk)

    return once


def states(attempt: Issuance) -> dict[str, str]:
    return {restored(each["server"]): each["state"] for each in attempt.servers}


def test_each_server_of_the_last_look_is_shown(visitor, look):
    silent = Server("<b>ns3</b>", address("::1", 53)).saying("answers REFUSED")
    homeless = _("%(host)s (no address)", host="ns4.example.com")
    attempt = look(Look(1, (NS2,), (silent,), showing=(NS1,), skipped=(homeless,)))
    assert states(attempt) == {NS1: "shows", NS2: "missing", NS3: "silent", homeless: "skipped"}
    page = visitor.get(f"/certificates/{attempt.certificate_id}/attempts/{attempt.pk}")
    shown = page.content.decode()
    assert "1 of 4 name servers</b> show the record" in shown
    assert "&lt;b&gt;ns3" in shown
    assert "<b>ns3" not in shown
    assert "ns4.example.com (no address)" in shown
    in_chinese = visitor.get(page.request["PATH_INFO"], HTTP_ACCEPT_LANGUAGE="zh").content.decode()
    assert "ns4.example.com\N{FULLWIDTH LEFT PARENTHESIS}没有地址" in in_chinese


def test_the_api_names_the_same_servers_while_it_waits(look, client_of, alice, world):
    attempt = look(Look(1, (NS2,), (), showing=(NS1,)))
    path = f"/apiv1/me/certificates/{attempt.certificate_id}"
    result = client_of(alice).get(f"{path}/issue-result").data_member
    assert [(each["server"], each["state"]) for each in result["name_servers"]] == [
        (NS1, "shows"),
        (NS2, "missing"),
    ]
    issuance = client_of(alice).get(path).data_member["issuance"]
    assert issuance["name_servers"] == result["name_servers"]
    look(Look(2, (), (), showing=(NS1, NS2)))
    assert client_of(alice).get(f"{path}/issue-result").data_member["name_servers"] == []


def test_a_state_is_kept_with_its_first_moment(look, world):
    first = look(Look(1, (NS2,), (), showing=(NS1,)))
    world.advance(5)
    second = look(Look(1, (NS2, NS3), (), showing=(NS1,)))
    since = {each["server"]: each["since"] for each in second.servers}
    assert [since[NS1], since[NS2]] == [each["since"] for each in first.servers]
    assert since[NS3] > since[NS2]


def test_the_usual_time_is_that_of_earlier_attempts(visitor, certificate):
    attempt = certificate.issuances.get()
    Issuance.objects.update(created_at=attempt.ended_at - timedelta(minutes=2))
    visitor.post(f"/certificates/{certificate.pk}/renew")
    newest = certificate.issuances.order_by("pk").last()
    page = visitor.get(f"/certificates/{certificate.pk}/attempts/{newest.pk}")
    assert "2 min, the last five" in page.content.decode()


def test_each_reader_reads_the_sentences_in_their_language(visitor, look):
    attempt = look(Look(1, (NS2,), (), showing=(NS1,)))
    path = f"/certificates/{attempt.certificate_id}/attempts/{attempt.pk}"
    waits = "1 of 2 name servers does not show _acme-challenge.www.example.com yet"
    assert waits in visitor.get(path).content.decode()
    visitor.cookies["language"] = "zh-hans"
    shown = visitor.get(path).content.decode()
    assert "2 台域名服务器中有 1 台尚未显示 _acme-challenge.www.example.com" in shown
    assert waits not in shown
    attempt.refresh_from_db()
    assert attempt.waits_for.startswith(waits)


def test_the_words_of_the_ca_stay_as_they_were_said(visitor, world, account, credential):
    problem = Problem("caa", "CAA <b>forbids</b> it.", permanent=True)
    world.ca.problems = {"new_order": [problem.refused(_(REFUSED, domain="www.example.com"))]}
    _certificate, made = world.create(account, credential, "www.example.com")
    world.deliver()
    path = f"/certificates/{made.certificate_id}/attempts/{made.pk}"
    quoted = 'translate="no">CAA &lt;b&gt;forbids&lt;/b&gt; it. (caa)</p>'
    for language, ours in (
        ("en", "The CA says: <p"),
        ("zh-hans", "CA 拒绝了 www.example.com 的订单。"),
    ):
        visitor.cookies["language"] = language
        shown = visitor.get(path).content.decode()
        assert ours in shown
        assert shown.count(quoted) == 1
        assert shown.count("it. (caa)") == 1, "the step says it once"
        assert f'action="/certificates/{made.certificate_id}/preflight"' in shown
