"""Lists that are kept twice agree, and the files of the image are enough to run."""

import ast
import importlib.metadata
import re
import shutil
import signal
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

from lab.ca import PROJECT
from standalone.redisserver import RedisServer
from tests.certctrl.site import Site, status
from tests.patience import LIMIT
from tests.servers import free_port

VERBS = {"release", "web", "worker", "clock", "beat"}
NOT_DEPLOYED = {
    "lab",
    "tests",
    "benchmarks",
}  # `make run` has a lab, and imports it where LAB is on


def read(name: str) -> str:
    return (PROJECT / name).read_text()


def first_party() -> set[str]:
    """Return the packages of the project."""
    return {each.parent.name for each in PROJECT.glob("*/__init__.py")} - NOT_DEPLOYED


def copied() -> list[tuple[str, str]]:
    """Return (source, destination) of each COPY from the project in the last stage."""
    lines = read("deploy/Dockerfile").rpartition("\nFROM ")[2].splitlines()
    words = [
        line.split()[1:] for line in lines if line.startswith("COPY ") and "--from" not in line
    ]
    return [(source, target) for *sources, target in words for source in sources]


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with the files of /opt/certctrl in the image."""
    folder = tmp_path / "image"
    folder.mkdir()
    for source, target in copied():
        place = folder / target / Path(source).name if target.endswith("/") else folder / target
        place.parent.mkdir(parents=True, exist_ok=True)
        if (PROJECT / source).is_dir():
            shutil.copytree(PROJECT / source, place, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(PROJECT / source, place)
    (folder / ".venv").symlink_to(PROJECT / ".venv")
    return folder


def test_the_image_the_wheel_and_the_checks_have_every_package(settings) -> None:
    packages = first_party()
    assert {app for app in settings.INSTALLED_APPS if (PROJECT / app).is_dir()} <= packages
    assert {source for source, _ in copied() if (PROJECT / source).is_dir()} == packages
    tools = tomllib.loads(read("pyproject.toml"))["tool"]
    assert set(tools["hatch"]["build"]["targets"]["wheel"]["packages"]) == packages
    assert set(tools["importlinter"]["root_packages"]) == packages
    # The agent is a distribution of its own.
    assert set(tools["mypy"]["files"]) == packages | {"lab", "agent/certctrl_agent"}


def imports(folder: Path) -> set[str]:
    """Return the top-level names that the Python files of a folder import."""
    found = set()
    for path in [*folder.glob("*.py"), *folder.glob("[a-z]*/**/*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                found |= {each.name.partition(".")[0] for each in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                found.add(node.module.partition(".")[0])
    return found


def test_everything_that_the_image_imports_is_in_it(image) -> None:
    """Imports are from the project, from Python, or from the lock file of the image."""
    with_extras = {"boto3", "botocore", "pkcs11"}  # of hsm.txt and aws.txt; imported when used
    in_the_lock = set(
        re.findall(r"^([a-z0-9-]+)(?:\[.*\])?==", read("requirements/run.txt"), re.MULTILINE)
    )
    packages = importlib.metadata.packages_distributions()
    missing = set()
    for name in imports(image) - set(sys.stdlib_module_names) - NOT_DEPLOYED - with_extras:
        copied_here = (image / name).is_dir() or (image / f"{name}.py").exists()
        installed = {re.sub(r"[-_.]+", "-", each).lower() for each in packages.get(name, ())}
        if not copied_here and not installed & in_the_lock:
            missing.add(name)
    assert missing == set()


def test_every_list_of_the_processes_has_all_of_them() -> None:
    assert set(re.findall(r"^  (\w+)\) ", read("deploy/run"), re.MULTILINE)) == VERBS
    assert dict(re.findall(r"^(\w+): deploy/run (\w+)$", read("Procfile"), re.MULTILINE)) == {
        v: v for v in VERBS
    }
    services = yaml.safe_load(read("deploy/compose.yaml"))["services"]
    ours = {name: each["command"] for name, each in services.items() if "build" in each}
    assert ours == {verb: [verb] for verb in VERBS}
    wanted = set(re.findall(r"certctrl@(\w+)\.service", read("deploy/systemd/certctrl.target")))
    assert wanted | {"release"} == VERBS
    table = read("docs/guides/production.md").partition("## What they share")[0]
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == VERBS
    usage = re.search(r"usage: deploy/run (\S+)", read("deploy/run"))
    assert usage
    assert set(usage[1].rstrip('"').split("|")) == VERBS


@pytest.mark.slow
@pytest.mark.e2e
@pytest.mark.skipif(RedisServer.found(Path(), "") is None, reason="needs redis-server")
def test_every_process_runs_from_what_the_image_has(image, tmp_path) -> None:
    """/health waits for a sweep, which needs beat, clock, Redis and the database."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    site = Site(data, image, LISTEN="127.0.0.1", PORT=str(free_port()), LOG_LEVEL="INFO")
    run = str(image / "deploy/run")
    try:
        site.start_redis()
        assert site.spawn("release", [run, "release"]).wait(LIMIT) == 0, site.said("release")
        for verb in ("web", "worker", "clock", "beat"):
            site.spawn(verb, [run, verb])
        health = f"http://127.0.0.1:{site.environment['PORT']}/health"
        site.until("worker", lambda: "ready." in site.said("worker"), "ready")
        site.until("web", lambda: status(health) == 200, "healthy")
        assert [
            name for name in VERBS - {"release"} if site.processes[name].poll() is not None
        ] == []
        for verb in ("beat", "worker", "clock", "web"):
            site.processes[verb].send_signal(signal.SIGTERM)
            assert site.processes[verb].wait(LIMIT) in (0, -signal.SIGTERM), site.said(verb)
    finally:
        site.stop()


def test_a_release_without_its_database_says_so_in_a_sentence(tmp_path) -> None:
    site = Site(tmp_path, DATABASE_URL=f"sqlite:////{tmp_path}/nowhere/database")
    assert site.spawn("release", [str(PROJECT / "deploy/run"), "release"]).wait(LIMIT) == 1
    assert re.search(
        r"The database cannot be updated: .+\. Run `release` again\.",
        site.said("release"),
    )
    assert "Traceback" not in site.said("release")


@pytest.mark.parametrize(
    ("setting", "value", "said"),
    [("SECRET_KEY", None, "SECRET_KEY"), ("URL_PREFIX", "certctrl", "URL_PREFIX must be a path")],
)
def test_a_web_process_that_cannot_start_says_why_in_a_sentence(
    tmp_path, setting, value, said
) -> None:
    site = Site(tmp_path)
    site.environment.pop(setting, None)
    assert site.spawn(
        "web", [str(PROJECT / "deploy/run"), "web"], **({setting: value} if value else {})
    ).wait(LIMIT)
    assert said in site.said("web")
    assert "Traceback" not in site.said("web")
