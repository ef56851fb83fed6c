"""The file that CERTCTRL_CONFIG names: the guide's debugging, and a sentence for a wrong file."""

import os
import subprocess
import sys

import pytest
from django.core.exceptions import ImproperlyConfigured

from certctrl.configfile import acme_log
from lab.ca import PROJECT


def written(tmp_path, text: str) -> str:
    path = tmp_path / "certctrl.json"
    path.write_text(text)
    return str(path)


def test_without_a_file_nothing_is_on():
    assert acme_log("") == ("", False)


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ('{"acme": {"log_level": "debug", "save_requests": true}}', ("debug", True)),
        ('{"acme": {"log_level": "debug"}}', ("debug", False)),
        ('{"acme": {"log_level": ""}}', ("", False)),
        ('{"acme": {}}', ("", False)),
        ("{}", ("", False)),
    ],
)
def test_the_guides_file_is_read(tmp_path, text, found):
    assert acme_log(written(tmp_path, text)) == found


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("{", "the file is not JSON"),
        ("", "the file is not JSON"),
        ("[" * 100_000, "the file is not JSON"),
        ("[]", "the file must hold a JSON object"),
        ('{"acme": "debug"}', "acme must hold a JSON object"),
        ('{"amce": {}}', "the file has the unknown member 'amce'; allowed are acme"),
        (
            '{"acme": {"loglevel": "debug"}}',
            "acme has the unknown member 'loglevel'; allowed are log_level, save_requests",
        ),
        ('{"acme": {"log_level": "loud"}}', 'acme.log_level must be "debug" or empty'),
        ('{"acme": {"log_level": ["debug"]}}', 'acme.log_level must be "debug" or empty'),
        ('{"acme": {"save_requests": "yes"}}', "acme.save_requests must be true or false"),
    ],
)
def test_a_file_that_says_something_else_is_refused_with_a_sentence(tmp_path, text, what):
    path = written(tmp_path, text)
    with pytest.raises(ImproperlyConfigured) as refused:
        acme_log(path)
    assert str(refused.value) == f"CERTCTRL_CONFIG names {path}, but {what}. Fix the file."


def test_a_file_that_is_missing_or_no_text_is_refused_with_a_sentence(tmp_path):
    with pytest.raises(
        ImproperlyConfigured, match=r"the file cannot be read \(No such file or directory\)"
    ):
        acme_log(str(tmp_path / "nowhere.json"))
    with pytest.raises(ImproperlyConfigured, match=r"the file cannot be read \(Is a directory\)"):
        acme_log(str(tmp_path))
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ImproperlyConfigured, match="the file is not JSON"):
        acme_log(str(tmp_path / "binary"))


def test_the_server_starts_only_with_a_valid_file(tmp_path):
    def start(text: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"CERTCTRL_CONFIG": written(tmp_path, text)}
        code = (
            "from tests import settings;"
            " print(settings.ACME_LOG_LEVEL, settings.ACME_SAVE_REQUESTS)"
        )
        run = [sys.executable, "-c", code]
        return subprocess.run(
            run, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False
        )

    assert start('{"acme": {"log_level": "debug", "save_requests": true}}').stdout == "debug True\n"
    refused = start('{"acme": {"log_level": "loud"}}')
    assert refused.returncode
    assert "ImproperlyConfigured: CERTCTRL_CONFIG names" in refused.stderr
