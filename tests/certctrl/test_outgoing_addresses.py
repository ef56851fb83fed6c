"""Public addresses are called, and others only if ALLOW_PRIVATE names them."""

import socket

import pytest
import requests

from certctrl import clock, outgoing
from tests.fakes.dripping import certificate_for, redirect, whole
from tests.servers import free_port

PUBLIC = [
    "93.184.216.34",
    "8.8.8.8",
    "2606:4700::1111",
    "64:ff9b::808:808",
    "::ffff:8.8.8.8",
    "2002:808:808::1",
]
REFUSED = {
    "loopback": ["127.0.0.1", "127.8.9.1", "::1"],
    "private": [
        "10.0.0.5",
        "172.16.0.1",
        "172.31.255.255",
        "192.168.1.1",
        "fc00::1",
        "fd12:3456::1",
        "fec0::1",
    ],
    "link-local": ["169.254.1.1", "fe80::1", "fe80::1%lo"],
    "metadata": [
        "169.254.169.254",
        "fd00:ec2::254",
        "100.100.100.200",
        "168.63.129.16",
        "192.0.0.192",
    ],
    "shared": ["100.64.0.1", "100.127.255.254"],
    "multicast": ["224.0.0.1", "224.0.1.1", "239.1.1.1", "ff02::1", "ff0e::1"],
    "unspecified": ["0.0.0.0", "0.1.2.3", "::"],
    "reserved": [
        "240.0.0.1",
        "255.255.255.255",
        "192.0.2.1",
        "198.18.0.1",
        "2001:db8::1",
        "3fff::1",
        "100::1",
    ],
    "embedded": [
        *("::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:a9fe:a9fe", "::127.0.0.1", "::a00:1"),
        *(
            "64:ff9b::7f00:1",
            "64:ff9b::10.0.0.1",
            "64:ff9b:1::a00:1",
            "2002:7f00:1::",
            "2002:a00:1::1",
        ),
        "2001:0:7f00:1::",
    ],
}
EVERY_REFUSED = [ip for group in REFUSED.values() for ip in group]


@pytest.fixture(autouse=True)
def allow_nothing(settings):
    settings.ALLOW_PRIVATE = []


def answers(*lists):
    """Return a resolver that gives these lists in turn, repeats the last one, and counts."""
    given = list(lists)

    def getaddrinfo(host, port, *args, **kwargs):
        getaddrinfo.calls += 1
        addresses = given.pop(0) if len(given) > 1 else given[0]
        return [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in addresses
        ]

    getaddrinfo.calls = 0
    return getaddrinfo


@pytest.fixture
def connected(monkeypatch):
    """The addresses of all connections. Each connection goes to a server on loopback instead."""
    tried = []
    connect = socket.socket.connect

    def record(self, address):
        tried.append(address[0])
        return connect(self, ("127.0.0.1", address[1]))

    monkeypatch.setattr("certctrl.sockets.DeadlineSocket.connect", record, raising=False)
    return tried


@pytest.mark.parametrize("ip", PUBLIC)
def test_a_public_address_is_allowed(ip):
    assert outgoing.is_allowed("ca.example", ip, 443)
    outgoing.check_address(ip, "ca.example", 443)


@pytest.mark.parametrize("ip", EVERY_REFUSED)
def test_an_address_that_is_not_public_is_refused_and_never_shown(ip):
    assert not outgoing.is_allowed("ca.example", ip, 443)
    with pytest.raises(outgoing.AddressRefused) as caught:
        outgoing.check_address(ip, "ca.example", 443)
    assert str(caught.value) == (
        "ca.example is not a public address. This server calls it only if its operator names it"
        " in ALLOW_PRIVATE."
    )


@pytest.mark.parametrize("ip", EVERY_REFUSED)
def test_true_allows_them_all(ip, settings):
    settings.ALLOW_PRIVATE = ["true"]
    assert outgoing.is_allowed("ca.example", ip, 443)


@pytest.mark.parametrize(
    ("entries", "host", "ip", "allowed"),
    [
        (["ca.corp"], "ca.corp", "10.0.0.5", True),
        (["CA.corp."], "ca.CORP", "10.0.0.5", True),
        (["ca.corp"], "ca.corp.", "10.0.0.5", True),
        (["ca.corp"], "notca.corp", "10.0.0.5", False),
        (["ca.corp"], "a.ca.corp", "10.0.0.5", False),
        (["10.0.0.0/8"], "ca.corp", "10.9.9.9", True),
        (["10.0.0.0/8"], "ca.corp", "::ffff:10.9.9.9", True),
        (["10.0.0.0/8"], "ca.corp", "192.168.0.1", False),
        (["10.0.0.5"], "ca.corp", "10.0.0.5", True),
        (["10.0.0.5"], "ca.corp", "10.0.0.6", False),
        (["10.0.0.5/8"], "ca.corp", "10.1.1.1", True),
        (["fd00::/8"], "ca.corp", "fd00::1", True),
        (["[::1]"], "localhost", "::1", True),
        (["other.corp", " 10.0.0.5 "], "ca.corp", "10.0.0.5", True),
        (["false"], "ca.corp", "10.0.0.5", False),
        ([""], "ca.corp", "10.0.0.5", False),
        (["falsehood"], "true", "10.0.0.5", False),
    ],
)
def test_allow_private_names_hosts_addresses_and_networks(entries, host, ip, allowed, settings):
    settings.ALLOW_PRIVATE = entries
    assert outgoing.is_allowed(host, ip, 443) is allowed


@pytest.mark.parametrize(
    ("entry", "host", "ip", "port"),
    [
        ("127.0.0.1:8443", "127.0.0.1", "127.0.0.1", 8443),
        ("127.0.0.1:8443", "rebind.example", "127.0.0.1", 8443),
        ("127.0.0.1:8443", "localhost", "::ffff:127.0.0.1", 8443),
        (" CA.corp:8443 ", "ca.corp", "10.0.0.5", 8443),
        ("[::1]:53", "localhost", "::1", 53),
        ("10.0.0.0/8:53", "ns.corp", "10.1.2.3", 53),
    ],
)
def test_an_entry_with_a_port_opens_that_port_and_no_other(entry, host, ip, port, settings):
    settings.ALLOW_PRIVATE = [entry]
    assert outgoing.is_allowed(host, ip, port)
    assert not outgoing.is_allowed(host, ip, port + 1)
    settings.ALLOW_PRIVATE = [entry, host if host != "rebind.example" else ip]
    assert outgoing.is_allowed(host, ip, port + 1)


@pytest.mark.parametrize(
    "entry", ["::1:53", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:999999", "127.0.0.1:53:53"]
)
def test_an_entry_whose_port_is_none_opens_no_port(entry, settings):
    settings.ALLOW_PRIVATE = [entry]
    assert not any(outgoing.is_allowed("localhost", ip, 53) for ip in ("127.0.0.1", "::1"))


def test_beside_a_port_that_is_allowed_no_other_one_is_called(serve, settings):
    allowed = serve(whole(b"lab"))
    other = serve(whole())
    onward = serve(redirect(f"http://127.0.0.1:{other.port}/"))
    settings.ALLOW_PRIVATE = [f"127.0.0.1:{allowed.port}", f"127.0.0.1:{onward.port}"]
    assert outgoing.session().get(allowed.url).content == b"lab"
    for url in (other.url, onward.url):
        with pytest.raises(outgoing.AddressRefused):
            outgoing.session().get(url)
    assert (len(onward.requests), other.connections) == (1, 0)


def test_a_literal_address_goes_through_a_proxy_to_its_allowed_port_only(
    serve, settings, monkeypatch
):
    proxy = serve(whole(b"through the proxy"))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    settings.ALLOW_PRIVATE = ["10.0.0.5:8080", "10.0.0.6:80"]
    for url in ("http://10.0.0.5:8080/", "http://10.0.0.6/"):
        assert outgoing.session().get(url).content == b"through the proxy"
    for url in ("http://10.0.0.5/", "http://10.0.0.6:8080/"):
        with pytest.raises(outgoing.AddressRefused):
            outgoing.session().get(url)


def test_a_name_that_resolves_to_loopback_is_refused(serve, monkeypatch):
    server = serve(whole())
    monkeypatch.setattr(socket, "getaddrinfo", answers(["127.0.0.1"]))
    with pytest.raises(
        outgoing.AddressRefused, match=r"^rebind\.example is not a public address\. This"
    ):
        outgoing.session().get(f"http://rebind.example:{server.port}/")
    assert server.connections == 0


def test_a_name_that_rebinds_to_loopback_is_called_at_its_first_address(
    serve, monkeypatch, connected
):
    server = serve(whole(b"first", "Connection: close"))
    resolver = answers(["93.184.216.34"], ["127.0.0.1"])
    monkeypatch.setattr(socket, "getaddrinfo", resolver)
    http = outgoing.session()
    url = f"http://rebind.example:{server.port}/"
    assert http.get(url).content == b"first"
    assert (connected, resolver.calls) == (["93.184.216.34"], 1)
    with pytest.raises(outgoing.AddressRefused):
        http.get(url)
    assert (connected, resolver.calls) == (["93.184.216.34"], 2)


def test_a_name_with_a_public_and_a_loopback_address_is_refused(serve, monkeypatch, connected):
    server = serve(whole())
    for addresses in (["93.184.216.34", "127.0.0.1"], ["127.0.0.1", "93.184.216.34"]):
        monkeypatch.setattr(socket, "getaddrinfo", answers(addresses))
        with pytest.raises(outgoing.AddressRefused):
            outgoing.session().get(f"http://rebind.example:{server.port}/")
    assert connected == []


@pytest.mark.parametrize(
    "host",
    [
        *(
            "127.0.0.1",
            "2130706433",
            "0x7f000001",
            "0x7f.1",
            "017700000001",
            "127.1",
            "0",
            "localhost",
            "127.0.0.1.",
        ),
        *(
            "[::1]",
            "[::ffff:127.0.0.1]",
            "[::ffff:7f00:1]",
            "[0:0:0:0:0:0:0:1]",
            "127。0。0。1",
            "①②⑦.0.0.1",
        ),
    ],
)
def test_loopback_is_refused_however_it_is_spelled(host, serve):
    server = serve(whole())
    with pytest.raises(requests.RequestException):
        outgoing.session().get(f"http://{host}:{server.port}/")
    assert server.connections == 0


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "2130706433", "0x7f.1", "017700000001", "[::1]", "localhost", "10.1"]
)
def test_a_literal_address_is_refused_before_a_proxy_gets_it(host, serve, monkeypatch):
    proxy = serve(whole())
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("HTTPS_PROXY", proxy.url)
    for scheme in ("http", "https"):
        with pytest.raises(outgoing.AddressRefused):
            outgoing.session().get(f"{scheme}://{host}/")
    assert proxy.connections == 0


def test_a_proxy_may_have_a_private_address_and_resolves_names_itself(serve, monkeypatch):
    proxy = serve(whole(b"through the proxy"))
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setattr(socket, "getaddrinfo", answers(["127.0.0.1"]))
    assert outgoing.session().get("http://ca.example/directory").content == b"through the proxy"
    assert proxy.requests[0].startswith(b"GET http://ca.example/directory HTTP/1.1\r\n")


def test_https_goes_through_a_tunnel_of_the_proxy(serve, monkeypatch):
    proxy = serve(b"HTTP/1.1 403 Forbidden\r\n\r\n")
    monkeypatch.setenv("HTTPS_PROXY", f"http://user:hunter2@127.0.0.1:{proxy.port}")
    with pytest.raises(requests.exceptions.ProxyError) as caught:
        outgoing.session().get("https://ca.example/directory?token=sesame")
    assert proxy.requests[0].startswith(b"CONNECT ca.example:443 HTTP/1.")
    assert "ca.example" in str(caught.value)
    assert "hunter2" not in str(caught.value)


def test_no_proxy_brings_the_guard_back(serve, monkeypatch):
    proxy = serve(whole())
    monkeypatch.setenv("HTTP_PROXY", proxy.url)
    monkeypatch.setenv("NO_PROXY", "inside.example")
    monkeypatch.setattr(socket, "getaddrinfo", answers(["10.0.0.1"]))
    with pytest.raises(outgoing.AddressRefused):
        outgoing.session().get("http://inside.example/")
    assert proxy.connections == 0


def test_a_redirect_to_loopback_is_refused(serve, settings, monkeypatch):
    inside = serve(whole(b"inside"), host="127.0.0.2")
    outside = serve(redirect(f"http://127.0.0.2:{inside.port}/admin"))
    settings.ALLOW_PRIVATE = ["127.0.0.1"]
    with pytest.raises(outgoing.AddressRefused, match=r"127\.0\.0\.2 is not a public address"):
        outgoing.session().get(outside.url)
    assert (len(outside.requests), inside.connections) == (1, 0)


def test_a_redirect_to_a_name_that_resolves_to_loopback_is_refused(serve, settings, monkeypatch):
    inside = serve(whole(b"inside"))
    outside = serve(redirect(f"http://rebind.example:{inside.port}/"), host="127.0.0.2")
    settings.ALLOW_PRIVATE = ["127.0.0.2"]
    monkeypatch.setattr(socket, "getaddrinfo", answers(["127.0.0.2"], ["127.0.0.1"]))
    with pytest.raises(
        outgoing.AddressRefused, match=r"^rebind\.example is not a public address\. This"
    ):
        outgoing.session().get(f"http://127.0.0.2:{outside.port}/")
    assert (len(outside.requests), inside.connections) == (1, 0)


def test_the_other_side_receives_the_name_and_not_the_address(
    serve, settings, monkeypatch, tmp_path, connected
):
    context, root = certificate_for(tmp_path, "ca.example")
    settings.ACME_CA_BUNDLE = str(root)
    names = []
    context.sni_callback = lambda sock, name, ctx: names.append(name)
    server = serve(whole(b"hello"), context=context)
    monkeypatch.setattr(socket, "getaddrinfo", answers(["93.184.216.34"]))
    assert outgoing.session().get(f"https://ca.example:{server.port}/").content == b"hello"
    assert names == ["ca.example"]
    assert f"Host: ca.example:{server.port}\r\n".encode() in server.requests[0]


def test_resolve_answers_socket_addresses_that_were_checked(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", answers(["8.8.8.8", "8.8.4.4", "8.8.8.8"]))
    assert outgoing.resolve("ns.example", 53) == [("8.8.8.8", 53), ("8.8.4.4", 53)]


def test_resolve_refuses_what_is_not_public(monkeypatch):
    monkeypatch.setattr(socket, "getaddrinfo", answers(["10.0.0.1"]))
    with pytest.raises(outgoing.AddressRefused):
        outgoing.resolve("ns.example", 53)


def test_a_name_without_an_address_is_reported_as_such(monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", unknown)
    with (
        clock.limit(5),
        pytest.raises(
            outgoing.NameUnknown, match=r"ca\.example does not resolve \(Name or service"
        ),
    ):
        outgoing.session().get("https://ca.example/?token=sesame")


# --- Hosts that a tenant named, and not the operator ---


def said(url, seconds=5.0):
    with clock.limit(seconds), pytest.raises(requests.RequestException) as caught:
        outgoing.session().get(url)
    return str(caught.value)


@pytest.fixture
def absent(serve, tmp_path, settings):
    """Addresses without a proper server, each with another fault."""
    settings.ALLOW_PRIVATE = ["127.0.0.1"]
    settings.ALLOW_PRIVATE_FOR_TENANTS = ["true"]
    untrusted = serve(whole(), context=certificate_for(tmp_path, "127.0.0.1")[0])
    no_tls = serve(whole())
    silent = serve(b"")
    return {
        "closed": f"http://127.0.0.1:{free_port()}/",
        "untrusted": untrusted.url,
        "no TLS": no_tls.url.replace("http:", "https:"),
        "silent": silent.url,
    }


def test_a_tenant_cannot_distinguish_closed_and_silent_ports(
    absent,
):
    with outgoing.named_by_tenant(True):
        words = {said(url, 0.5) for url in absent.values()}
    assert words == {outgoing.UNTOLD % {"host": "127.0.0.1"}}


def test_the_operator_reads_the_fault_of_each_address(absent):
    words = [said(absent[kind], 0.5) for kind in ("closed", "untrusted", "silent")]
    assert "Connection refused" in words[0]
    assert "is not trusted" in words[1]
    assert "did not answer in time" in words[2]


def test_an_internal_name_reads_like_one_that_does_not_exist(monkeypatch):
    def unknown(*args, **kwargs):
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    words = set()
    for resolver in (
        unknown,
        answers(["10.0.0.5"]),
        answers(["127.0.0.1"]),
        answers(["169.254.169.254"]),
    ):
        monkeypatch.setattr(socket, "getaddrinfo", resolver)
        with outgoing.named_by_tenant(True):
            words.add(said("http://vm/"))
    assert words == {
        "vm is not a public address. This server calls it only if its operator names it"
        " in ALLOW_PRIVATE and ALLOW_PRIVATE_FOR_TENANTS."
    }


@pytest.mark.parametrize(
    ("private", "for_tenants", "allowed"),
    [
        (["ca.corp"], [], False),
        (["ca.corp"], ["true"], True),
        (["ca.corp"], ["ca.corp:443"], True),
        (["ca.corp"], ["ca.corp:8443"], False),
        (["10.0.0.0/8"], ["10.0.0.5"], True),
        (["10.0.0.0/8"], ["10.0.0.6"], False),
        ([], ["true"], False),
        ([], ["ca.corp"], False),
        (["true"], [], False),
    ],
)
def test_a_private_address_is_a_tenants_only_where_both_settings_name_it(
    private, for_tenants, allowed, settings
):
    settings.ALLOW_PRIVATE = private
    settings.ALLOW_PRIVATE_FOR_TENANTS = for_tenants
    assert outgoing.is_allowed("ca.corp", "10.0.0.5", 443) is bool(private)
    with outgoing.named_by_tenant(True):
        assert outgoing.is_allowed("ca.corp", "10.0.0.5", 443) is allowed
        assert outgoing.is_allowed("ca.corp", "8.8.8.8", 443)
    assert outgoing.is_allowed("ca.corp", "10.0.0.5", 443) is bool(private)


def test_no_tenant_uses_a_connection_that_the_operator_left_open(serve, settings):
    settings.ALLOW_PRIVATE = ["127.0.0.1"]
    settings.ALLOW_PRIVATE_FOR_TENANTS = []
    server = serve(whole(b"the operator's"))
    assert outgoing.session().get(server.url).content == b"the operator's"
    with outgoing.named_by_tenant(True), pytest.raises(outgoing.AddressRefused):
        outgoing.session().get(server.url)
    assert len(server.requests) == 1
