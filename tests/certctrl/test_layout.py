"""A package is entered through its `__init__` (docs/decisions/0022)."""

import ast
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from tests.prose import APPS, ROOT

# Django imports these by their path.
BY_PATH = ("migrations", "management", "commands")


def packages() -> list[str]:
    """Return the dotted names of the packages inside the apps."""
    found = (
        path.parent.relative_to(ROOT) for app in APPS for path in (ROOT / app).rglob("__init__.py")
    )
    return sorted(
        ".".join(path.parts)
        for path in found
        if len(path.parts) > 1 and not set(BY_PATH) & set(path.parts)
    )


def imports(path: Path) -> Iterator[tuple[str, str]]:
    """Yield the module and the name of each `from module import name` in a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            yield from ((node.module, alias.name) for alias in node.names)


@cache
def every_import() -> list[tuple[Path, str, str]]:
    """Return the file, the module and the name of each import in the apps."""
    return [
        (path, module, name)
        for app in APPS
        for path in (ROOT / app).rglob("*.py")
        if "migrations" not in path.parts
        for module, name in imports(path)
    ]


def names_handed_on(package: str) -> set[str]:
    init = ROOT.joinpath(*package.split("."), "__init__.py")
    return {name for module, name in imports(init) if module.startswith(f"{package}.")}


@pytest.mark.parametrize("package", packages())
def test_others_take_no_name_from_a_module_of_the_package(package: str) -> None:
    """The `__init__` of the package above may, because it hands the name on."""
    inside = ROOT.joinpath(*package.split("."))
    found = [
        f"{path.relative_to(ROOT)}: from {module} import {name}"
        for path, module, name in every_import()
        if module.startswith(f"{package}.")
        and not path.is_relative_to(inside)
        and path != inside.parent / "__init__.py"
    ]
    assert found == []


@pytest.mark.parametrize("package", packages())
def test_no_name_of_a_package_is_also_one_of_its_modules(package: str) -> None:
    modules = {path.stem for path in ROOT.joinpath(*package.split(".")).glob("*.py")}
    assert names_handed_on(package) & modules == set()
