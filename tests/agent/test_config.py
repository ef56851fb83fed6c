"""The administrator's permissions for the agent, in `config.toml`."""

from pathlib import Path

import pytest

from certctrl_agent.config import NAME, Config
from certctrl_agent.errors import AgentError

HASH = "ab" * 32


def test_without_a_file_nothing_is_permitted(tmp_path) -> None:
    assert Config.of(tmp_path) == Config()
    assert not Config().challenges


def test_each_key_is_read(tmp_path) -> None:
    (tmp_path / NAME).write_text(
        'challenges = true\nwebroot = "/srv/acme"\nhttp_listen = "127.0.0.1:8402"\n'
        f'tls_listen = "[::1]:0"\nscript_signals = ["cert.updated"]\nscript_sha256 = "{HASH}"\n'
    )
    assert Config.of(tmp_path) == Config(
        challenges=True,
        webroot=Path("/srv/acme"),
        http_listen=("127.0.0.1", 8402),
        tls_listen=("::1", 0),
        script_signals=("cert.updated",),
        script_sha256=(HASH,),
    )


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("challenge = true", 'unknown key "challenge"'),
        ('challenges = "yes"', "true or false"),
        ("challenges =", "not TOML"),
        ('webroot = "srv"', "absolute path"),
        ('webroot = "/srv/../etc"', "absolute path"),
        ('http_listen = "8402"', "no address to listen at"),
        ('tls_listen = "127.0.0.1:65536"', "no address to listen at"),
        ("script_signals = true", "not a list"),
        ('script_sha256 = ["abc"]', "SHA-256 hashes in hex"),
    ],
)
def test_a_wrong_line_is_named(tmp_path, line: str, words: str) -> None:
    (tmp_path / NAME).write_text(line)
    with pytest.raises(AgentError, match=words):
        Config.of(tmp_path)
