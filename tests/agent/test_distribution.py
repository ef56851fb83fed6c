"""The distribution of the agent: what it imports, and which versions it pins."""

import ast
import re
import sys
import tomllib

from certctrl_agent import __version__
from lab.ca import PROJECT

AGENT = PROJECT / "agent"


def pins(path: str) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)==(\S+)", (PROJECT / path).read_text(), re.MULTILINE))


def test_the_agent_imports_nothing_of_the_server() -> None:
    allowed = {
        "certctrl_agent",
        "certifi",
        "cryptography",
        "nacl",
        "requests",
        "typer",
        "websockets",
    }
    allowed |= set(sys.stdlib_module_names)
    found = set()
    for path in (AGENT / "certctrl_agent").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {alias.name.split(".")[0] for alias in node.names}
            if isinstance(node, ast.ImportFrom):
                found.add((node.module or "certctrl_agent").split(".")[0])
    assert "nacl" in found
    assert found - allowed == set()


def test_the_tests_run_with_the_versions_that_the_agent_pins() -> None:
    own, tested = pins("agent/requirements/run.txt"), pins("requirements/dev.txt")
    assert {"requests", "pynacl", "cryptography", "typer", "websockets"} <= own.keys()
    assert {name: pin for name, pin in own.items() if tested.get(name) != pin} == {}


def test_the_distribution_has_the_version_of_its_package() -> None:
    project = tomllib.loads((AGENT / "pyproject.toml").read_text())["project"]
    assert project["version"] == __version__
