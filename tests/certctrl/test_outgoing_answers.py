"""Responses: bodies up to 1 MiB, limited redirects, errors without secrets, and Retry-After."""

import email.utils
import gzip
import traceback
import zlib
from datetime import timedelta

import pytest
import requests
import responses

from certctrl import clock, outgoing
from tests.fakes.dripping import OK, certificate_for, redirect, whole

MIB = 1024 * 1024
NOTHING_LISTENS = 9


def chunked(body: bytes) -> bytes:
    return f"{len(body):x}\r\n".encode() + body + b"\r\n0\r\n\r\n"


BOMB = gzip.compress(b"\0" * 50 * MIB)
TOO_LARGE = {
    "a long body": whole(b"x" * (MIB + 1)),
    "a body that says that it is long": OK + b"Content-Length: 10000000\r\n\r\n" + b"x" * (MIB + 1),
    "chunks": OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * (MIB + 1)),
    "a gzip bomb": whole(BOMB, "Content-Encoding: gzip"),
    "a gzip bomb in chunks": OK
    + b"Transfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    + chunked(BOMB),
    "a bomb of deflate": whole(zlib.compress(b"\0" * 50 * MIB), "Content-Encoding: deflate"),
    "a bomb in a bomb": whole(
        gzip.compress(gzip.compress(b"\0" * 50 * MIB)), "Content-Encoding: gzip, gzip"
    ),
}


@pytest.mark.parametrize("answer", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_body_over_one_mebibyte_is_refused(answer, serve):
    with pytest.raises(
        outgoing.AnswerTooLarge, match=r"^127\.0\.0\.1 sent more than 1048576 bytes"
    ):
        outgoing.session().get(serve(answer).url)


@pytest.mark.parametrize(
    ("answer", "size"),
    [
        (whole(b"x" * MIB), MIB),
        (whole(gzip.compress(b"x" * MIB), "Content-Encoding: gzip"), MIB),
        (whole(b""), 0),
        (b"HTTP/1.1 204 No Content\r\n\r\n", 0),
        (
            OK + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + chunked(b"x" * MIB),
            MIB,
        ),
    ],
)
def test_a_body_up_to_one_mebibyte_is_read_whole(answer, size, serve):
    response = outgoing.session().get(serve(answer).url)
    assert len(response.content) == size


def test_connections_are_kept_between_sessions(serve):
    server = serve(whole(b'{"a": 1}'))
    for _ in range(3):
        with outgoing.session() as http:
            assert http.get(server.url).json() == {"a": 1}
    assert (server.connections, len(server.requests)) == (1, 3)


def test_a_connection_that_was_idle_for_long_is_not_used_again(serve, monkeypatch):
    server = serve(whole())
    outgoing.session().get(server.url)
    later = clock.monotonic() + outgoing.MAX_IDLE + 1
    monkeypatch.setattr(clock, "monotonic", lambda: later)
    outgoing.session().get(server.url)
    assert server.connections == 2


def test_a_request_after_a_refused_body_starts_on_a_clean_connection(serve):
    server = serve(TOO_LARGE["a long body"], whole(b"clean"))
    with pytest.raises(outgoing.AnswerTooLarge):
        outgoing.session().get(server.url)
    assert outgoing.session().get(server.url).content == b"clean"


def test_headers_and_cookies_of_one_session_are_not_those_of_another(serve):
    server = serve(whole(b"", "Set-Cookie: id=1"))
    first = outgoing.session()
    first.headers["Authorization"] = "Bearer sesame"
    first.get(server.url)
    first.get(server.url)
    outgoing.session().get(server.url)
    assert [b"sesame" in request for request in server.requests] == [True, True, False]
    assert not any(b"Cookie" in request for request in server.requests)


def test_the_user_agent_says_who_calls(serve):
    server = serve(whole())
    outgoing.session().get(server.url)
    assert b"User-Agent: certctrl/" in server.requests[0]


def test_passwords_of_a_netrc_file_stay_at_home(serve, monkeypatch, tmp_path):
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password sesame\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    server = serve(whole())
    outgoing.session().get(server.url)
    assert b"Authorization" not in server.requests[0]


# --- Redirects ---


def test_a_redirect_is_followed(serve):
    server = serve(redirect("/there"), whole(b"there"))
    response = outgoing.session().get(server.url)
    assert response.content == b"there"
    assert [each.status_code for each in response.history] == [302]


def test_a_redirect_is_not_followed_when_the_caller_says_so(serve):
    server = serve(redirect("http://127.0.0.1:1/"))
    assert outgoing.session().get(server.url, allow_redirects=False).status_code == 302
    assert len(server.requests) == 1


def test_a_redirect_that_never_ends_is_given_up(serve):
    server = serve(redirect("/again"))
    with pytest.raises(
        requests.TooManyRedirects, match=r"127\.0\.0\.1 redirects more than 5 times"
    ):
        outgoing.session().get(server.url)
    assert len(server.requests) == 6


@pytest.mark.parametrize(
    "target", ["http://127.0.0.1:1/", "ftp://127.0.0.1/", "file:///etc/passwd"]
)
def test_a_redirect_away_from_https_is_refused(target, serve, settings, tmp_path):
    context, root = certificate_for(tmp_path, "127.0.0.1")
    settings.ACME_CA_BUNDLE = str(root)
    server = serve(redirect(target), context=context)
    with pytest.raises(requests.exceptions.InvalidSchema, match="redirects from https to http"):
        outgoing.session().get(server.url)
    assert outgoing.session().get(server.url, allow_redirects=False).status_code == 302


@pytest.mark.parametrize(
    "target", ["file:///etc/passwd", "ftp://x.example/", "http://127.0.0.1:99999/", "http://[::1/"]
)
def test_a_redirect_to_what_is_no_http_address_is_refused(target, serve):
    with pytest.raises(requests.RequestException) as caught:
        outgoing.session().get(serve(redirect(target)).url)
    assert type(caught.value) in (requests.exceptions.InvalidSchema, requests.exceptions.InvalidURL)


def test_credentials_do_not_follow_a_redirect_to_another_host(serve):
    other = serve(whole())
    server = serve(redirect(other.url.replace("127.0.0.1", "localhost"), "307 Temporary Redirect"))
    sent = {
        "Authorization": "Bearer sesame",
        "X-Auth-Key": "sesame",
        "Content-Type": "application/json",
    }
    outgoing.session().post(server.url, data=b"{}", headers=sent)
    assert server.requests[0].count(b"sesame") == 2
    assert b"sesame" not in other.requests[0]
    assert b"Content-Type: application/json" in other.requests[0]


def test_credentials_stay_within_their_host(serve):
    server = serve(redirect("/there"), whole())
    outgoing.session().get(
        server.url, headers={"Authorization": "Bearer sesame", "X-Auth-Key": "sesame"}
    )
    assert server.requests[1].count(b"sesame") == 2


# --- Trust ---


def test_a_root_in_the_bundle_is_trusted_beside_the_others(serve, settings, tmp_path):
    context, root = certificate_for(tmp_path, "127.0.0.1")
    server = serve(whole(b"trusted"), context=context)
    with pytest.raises(
        requests.exceptions.SSLError, match=r"certificate of 127\.0\.0\.1 is not trusted: self"
    ):
        outgoing.session().get(server.url)
    settings.ACME_CA_BUNDLE = str(root)
    http = outgoing.session()
    assert http.get(server.url).content == b"trusted"
    assert len(http.get_adapter(server.url).context.get_ca_certs()) > 50


def test_verification_is_not_the_callers_to_switch_off(serve, tmp_path):
    context, _ = certificate_for(tmp_path, "127.0.0.1")
    with pytest.raises(requests.exceptions.SSLError):
        outgoing.session().get(serve(whole(), context=context).url, verify=False)


def test_a_certificate_for_another_name_is_refused(serve, settings, tmp_path):
    context, root = certificate_for(tmp_path, "other.example")
    settings.ACME_CA_BUNDLE = str(root)
    with pytest.raises(requests.exceptions.SSLError, match=r"not valid for '127\.0\.0\.1'"):
        outgoing.session().get(serve(whole(), context=context).url)


def test_a_bundle_that_changed_is_read_again(serve, settings, tmp_path):
    context, root = certificate_for(tmp_path, "127.0.0.1")
    server = serve(whole(), context=context)
    bundle = tmp_path / "bundle.pem"
    _, other = certificate_for(tmp_path_of(tmp_path, "other"), "127.0.0.1")
    settings.ACME_CA_BUNDLE = str(bundle)
    bundle.write_bytes(other.read_bytes())
    with pytest.raises(requests.exceptions.SSLError):
        outgoing.session().get(server.url)
    bundle.write_bytes(root.read_bytes())
    assert outgoing.session().get(server.url).ok


def tmp_path_of(folder, name):
    (folder / name).mkdir()
    return folder / name


@pytest.mark.parametrize("content", [None, b"", b"no certificate"])
def test_an_unreadable_ca_bundle_is_reported(content, settings, tmp_path):
    bundle = tmp_path / "bundle.pem"
    if content is not None:
        bundle.write_bytes(content)
    settings.ACME_CA_BUNDLE = str(bundle)
    with pytest.raises(requests.exceptions.SSLError, match="ACME_CA_BUNDLE"):
        outgoing.session().get("https://ca.example/")


# --- Error sentences ---


def refused(serve):
    return f"http://me:hunter2@127.0.0.1:{NOTHING_LISTENS}/a?key=sesame", {}


def broken(serve):
    return serve(b"SMTP ready\r\n\r\n").url + "a?key=sesame", {}


def closed(serve):
    return serve(
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 10\r\n\r\n", b""
    ).url + "?key=sesame", {"timeout": 1}


def not_gzip(serve):
    return serve(whole(b"sesame" * 20, "Content-Encoding: gzip")).url + "?key=sesame", {}


def not_tls(serve):
    return serve(whole()).url.replace("http", "https") + "?key=sesame", {}


def too_large(serve):
    return serve(TOO_LARGE["a long body"]).url.replace("//", "//me:hunter2@") + "?key=sesame", {}


def line_break(serve):
    return serve(whole()).url, {"headers": {"Authorization": "Bearer sesame\nhunter2"}}


def not_latin(serve):
    return serve(whole()).url, {"headers": {"Authorization": "Bearer sesame…hunter2"}}


def no_scheme(serve):
    return "ca.example/?key=sesame", {}


def no_host(serve):
    return "https:///?key=sesame", {}


def other_scheme(serve):
    return "ftp://me:hunter2@ca.example/?key=sesame", {}


def bad_port(serve):
    return "https://me:hunter2@ca.example:99999/?key=sesame", {}


def control_characters(serve):
    return "http://ca.exa\x00mple/?key=sesame", {}


def long_label(serve):
    return f"http://{'a' * 70}.example/?key=sesame", {}


TROUBLES = [refused, broken, closed, not_gzip, not_tls, too_large, line_break, not_latin]
TROUBLES += [no_scheme, no_host, other_scheme, bad_port, control_characters, long_label]


@pytest.mark.parametrize("trouble", TROUBLES, ids=lambda trouble: trouble.__name__)
def test_a_failure_is_a_sentence_without_secrets(trouble, serve):
    url, options = trouble(serve)
    with clock.limit(2), pytest.raises(requests.RequestException) as caught:
        outgoing.session().get(url, **options)
    told = str(caught.value)
    assert told.endswith((".", "?"))
    assert told[0].isupper() or told[0].isdigit()
    assert "Pool" not in told
    assert "object at" not in told
    whole_story = "".join(traceback.format_exception(caught.value))
    assert not any(secret in whole_story.replace(url, "") for secret in ("sesame", "hunter2"))


def test_a_refused_connection_is_reported_with_its_cause():
    with pytest.raises(
        outgoing.Unreachable, match=r"^127\.0\.0\.1 could not be reached \(Connection refused"
    ):
        outgoing.session().get(f"http://127.0.0.1:{NOTHING_LISTENS}/")


def test_raise_for_status_names_the_host_and_not_the_query(serve):
    response = outgoing.session().get(serve(whole(status="404 Not Found")).url + "?key=sesame")
    with pytest.raises(requests.HTTPError, match=r"^127\.0\.0\.1 answered 404\.$"):
        response.raise_for_status()


# --- Retry-After ---


def answer_with(**headers):
    response = requests.Response()
    response.headers.update({name.replace("_", "-"): value for name, value in headers.items()})
    return response


@pytest.mark.parametrize(
    ("said", "seconds"),
    [
        ("30", 30),
        ("0", 0),
        (" 5 ", 5),
        ("9" * 40, 7 * 86400),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("", None),
    ],
)
def test_retry_after_in_seconds(said, seconds):
    assert outgoing.wait_of(answer_with(Retry_After=said)) == seconds


def test_no_retry_after_means_none():
    assert outgoing.wait_of(answer_with()) is None


@pytest.mark.parametrize(("ahead", "seconds"), [(90, 90), (-90, 0), (30 * 86400, 7 * 86400)])
def test_retry_after_as_a_date(ahead, seconds, time_machine):
    time_machine.move_to("2026-03-01T12:00:00Z", tick=False)
    date = email.utils.format_datetime(clock.now() + timedelta(seconds=ahead), usegmt=True)
    assert outgoing.wait_of(answer_with(Retry_After=date)) == seconds


# --- Other people's tests ---


@responses.activate
def test_the_responses_library_replaces_the_network():
    responses.get("https://api.example/zones", json={"result": [1]}, headers={"Retry-After": "3"})
    response = outgoing.session().get("https://api.example/zones", params={"name": "x"})
    assert response.json() == {"result": [1]}
    assert outgoing.wait_of(response) == 3


# --- A call without a session ---


def test_a_call_sends_its_body_and_headers(serve):
    server = serve(whole(b"{}", "X-Found: yes"))
    response = outgoing.call("POST", server.url + "order", "text", {"Accept": "a/b"})
    assert (response.status_code, response.json()) == (200, {})
    assert (response.headers["x-found"], response.url) == ("yes", server.url + "order")
    [request] = server.requests
    assert request.startswith(b"POST /order HTTP/1.1\r\n")
    assert request.endswith(b"\r\n\r\ntext")
    for header in (b"Accept: a/b", b"Content-Length: 4", b"User-Agent: certctrl/"):
        assert request.count(header) == 1


def test_a_call_follows_no_redirect_and_keeps_no_cookie(serve):
    server = serve(redirect("http://127.0.0.1:1/"), whole(b"", "Set-Cookie: id=1"), whole())
    said = [outgoing.call("HEAD", server.url, None, {}).status_code for _ in range(3)]
    assert said == [302, 200, 200]
    assert not any(b"Cookie" in request for request in server.requests)


def test_calls_and_sessions_share_their_connections(serve):
    server = serve(whole(b"one"), whole(b"two"))
    outgoing.call("POST", server.url, "", {})
    outgoing.session().get(server.url)
    assert server.connections == 1


@pytest.mark.parametrize("answer", TOO_LARGE.values(), ids=TOO_LARGE)
def test_a_call_refuses_a_body_over_one_mebibyte(answer, serve):
    with pytest.raises(outgoing.AnswerTooLarge):
        outgoing.call("POST", serve(answer).url, "", {})


@pytest.mark.parametrize(
    "trouble",
    [each for each in TROUBLES if each not in (line_break, not_latin)],
    ids=lambda trouble: trouble.__name__,
)
def test_a_failed_call_is_a_sentence_without_secrets(trouble, serve):
    url, _ = trouble(serve)
    with clock.limit(1), pytest.raises(requests.RequestException) as caught:
        outgoing.call("POST", url, "", {})
    assert str(caught.value).endswith((".", "?"))
    assert not any(secret in str(caught.value) for secret in ("sesame", "hunter2"))


def test_a_call_to_an_untrusted_server_is_refused(serve, tmp_path):
    context, _ = certificate_for(tmp_path, "127.0.0.1")
    with pytest.raises(requests.exceptions.SSLError, match="is not trusted"):
        outgoing.call("POST", serve(whole(), context=context).url, "", {})


def test_a_call_to_a_private_address_is_refused(serve, settings):
    server = serve(whole())
    settings.ALLOW_PRIVATE = []
    with pytest.raises(outgoing.AddressRefused):
        outgoing.call("POST", server.url, "", {})
    assert not server.connections


def test_a_call_goes_through_the_proxy(serve, monkeypatch):
    proxy = serve(whole(b"through the proxy"))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    assert outgoing.call("POST", "http://ca.example/", "", {}).content == b"through the proxy"
