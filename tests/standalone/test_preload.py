"""The supervisor imports what its children use before it forks them, so they share the memory."""

import os
import subprocess
import sys

import pytest

from lab.ca import PROJECT

CODE = """
import sys, django
django.setup()
from standalone.management.commands.up import preload
preload()
print(*sys.modules)
"""


@pytest.fixture(scope="module")
def loaded() -> set[str]:
    environment = os.environ | {"DJANGO_SETTINGS_MODULE": "tests.settings"}
    done = subprocess.run(
        [sys.executable, "-c", CODE],
        cwd=PROJECT,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "certctrl.urls",
        "certctrl.connections",
        "uvicorn.lifespan.on",
        "celery.worker.consumer.consumer",
        "celery.concurrency.thread",
        "issuance.beat.sweep",
        "notices.tasks",
    ],
)
def test_a_module_that_children_use_is_shared(loaded: set[str], module: str) -> None:
    assert module in loaded
