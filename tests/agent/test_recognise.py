"""Which sites the configurations of servers have, and the plan that is proposed for them."""

from pathlib import Path

import pytest

from certctrl_agent import recognise
from certctrl_agent.plan import Plan
from certctrl_agent.recognise import Program, Site, proposal

ETC = Path("/etc/server")
NGINX = """
# configuration file /etc/nginx/nginx.conf:
events { worker_connections 768; }
http {
    log_format main '$remote_addr {"quoted; brace}" ';
    server { listen 80 default_server; server_name _; return 301 https://$host$request_uri; }
    server {
        listen 127.0.0.1:8443 ssl http2;  # server { commented; }
        server_name *.example.com www.example.com;
        ssl_certificate "/etc/nginx/tls/www.pem";
        ssl_certificate_key tls/www.key;
        location / { proxy_pass http://127.0.0.1:8080; }
    }
    server {
        listen [::]:443 ssl;
        server_name api.example.com;
        ssl_certificate /etc/nginx/tls/$ssl_server_name.pem;
        ssl_certificate_key /etc/nginx/tls/$ssl_server_name.key;
    }
}
"""
APACHE = """
<VirtualHost *:80>
  ServerName www.example.com
</VirtualHost>
<VirtualHost *:443>
  ServerName https://www.example.com:443
  SSLEngine on
  # SSLCertificateFile /etc/other.pem
  SSLCertificateFile "/etc/apache2/tls/www.pem"
  SSLCertificateKeyFile tls/www.key
</VirtualHost>
<VirtualHost 10.0.0.1:8443>
  SSLCertificateFile /a.pem
  SSLCertificateKeyFile /a.key
  SSLCertificateChainFile /a.chain
</VirtualHost>
"""
HAPROXY = """
frontend web
    bind :80
    bind *:443 ssl crt /etc/haproxy/www.pem alpn h2
    bind [::1]:8443 ssl crt site.pem
"""
CADDY = """
{
    admin off
}
www.example.com:8443, example.com {
    tls /etc/caddy/www.pem www.key
    reverse_proxy 127.0.0.1:8080
}
auto.example.com {
    respond "hello"
}
"""


def sites(name: str, text: str) -> list[Site]:
    return Program(name, (name, "-t"), (name, "reload"), text, ETC).sites()


def test_nginx_sites_are_those_with_tls() -> None:
    files = (
        ("fullchain.pem", "/etc/nginx/tls/www.pem"),
        ("private.key", "/etc/server/tls/www.key"),
    )
    assert sites("nginx", NGINX) == [Site("nginx", "www.example.com", files, "127.0.0.1", 8443)]


def test_apache_sites_are_those_with_tls() -> None:
    first, second = sites("apache", APACHE)
    assert first == Site(
        "apache",
        "www.example.com",
        (("fullchain.pem", "/etc/apache2/tls/www.pem"), ("private.key", "/etc/server/tls/www.key")),
        "127.0.0.1",
        443,
    )
    assert (second.name, second.address, second.port) == ("", "10.0.0.1", 8443)
    assert second.files == (
        ("certificate.pem", "/a.pem"),
        ("private.key", "/a.key"),
        ("chain.pem", "/a.chain"),
    )


def test_haproxy_has_the_key_beside_the_chain() -> None:
    first, second = sites("haproxy", HAPROXY)
    assert first.files == (
        ("fullchain.pem", "/etc/haproxy/www.pem"),
        ("private.key", "/etc/haproxy/www.pem.key"),
    )
    assert (first.address, first.port) == ("127.0.0.1", 443)
    assert (second.address, second.port) == ("::1", 8443)


def test_caddy_sites_are_those_with_files() -> None:
    [site] = sites("caddy", CADDY)
    assert (site.name, site.port) == ("www.example.com", 8443)
    assert site.files == (
        ("fullchain.pem", "/etc/caddy/www.pem"),
        ("private.key", "/etc/server/www.key"),
    )


@pytest.mark.parametrize(
    "text", ["", "}}}", "server {", "http { server { listen 443 ssl; } }", "'"]
)
def test_a_configuration_without_sites_has_none(text) -> None:
    assert [sites(name, text) for name in ("nginx", "apache", "haproxy", "caddy")] == [[]] * 4


@pytest.mark.parametrize(
    ("name", "text"), [("nginx", NGINX), ("apache", APACHE), ("haproxy", HAPROXY), ("caddy", CADDY)]
)
def test_a_proposal_is_a_plan_that_this_agent_accepts(name, text) -> None:
    program = Program(name, (name, "-t"), (name, "reload"), text, ETC)
    body = proposal(program, program.sites(), 7)
    steps = Plan(body | {"version": 1}).steps(("cert", 7))
    assert len(steps.targets) == sum(len(site.files) for site in program.sites())
    assert [each.argv for each in steps.tests] == [program.test]
    assert [each.argv for each in steps.reloads] == [program.reload]
    assert len(steps.tls) == len(program.sites())


def test_programs_need_their_configuration(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(recognise.shutil, "which", lambda program, path: f"/usr/sbin/{program}")
    monkeypatch.setattr(recognise, "printed", lambda *command: "")
    assert list(recognise.programs(tmp_path)) == []
    for name, text in (
        ("nginx/nginx.conf", NGINX),
        ("apache2/sites-enabled/www.conf", APACHE),
        ("haproxy/haproxy.cfg", HAPROXY),
        ("caddy/Caddyfile", CADDY),
    ):
        place = tmp_path / "etc" / name
        place.parent.mkdir(parents=True)
        place.write_text(text)
    found = {each.name: each for each in recognise.programs(tmp_path)}
    assert {name: len(each.sites()) for name, each in found.items()} == {
        "nginx": 1,
        "apache": 2,
        "haproxy": 2,
        "caddy": 1,
    }
    assert found["nginx"].reload == ("nginx", "-s", "reload")
    (tmp_path / "run/systemd/system").mkdir(parents=True)
    found = {each.name: each for each in recognise.programs(tmp_path)}
    assert found["nginx"].reload == ("systemctl", "reload", "nginx")
