"""`make bench` and `make bench-quick` measure the same rows, each in a part of its own."""

import dataclasses
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks import __main__ as bench
from benchmarks import page, sizes
from lab.ca import PROJECT

OLD = {"row": "create", "part": "ours", "run": "then", "commit": "abc", "quick": False}


@pytest.fixture(autouse=True)
def _known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.machine, "versions", lambda: {"Machine": "of the test"})
    monkeypatch.setattr(bench.machine, "commit", lambda: "abc1234")
    monkeypatch.setattr(bench.processes, "missing", lambda: "")


def answering(lines: dict[str, list[dict[str, Any]]], asked: list[tuple[str, list[str], bool]]):
    """Return a stand-in for `lines_of`, which notes what it is asked."""

    def lines_of(part: str, rows: list[str], quick: bool) -> list[dict[str, Any]]:
        asked.append((part, rows, quick))
        return lines.get(part, [])

    return lines_of


def command(target: str) -> list[str]:
    call = ["make", "--dry-run", "--no-print-directory", "--old-file", ".venv/.dev", target]
    call.append("ARGS=--rows idle")
    printed = subprocess.run(call, cwd=PROJECT, check=True, capture_output=True, text=True).stdout
    return shlex.split(printed.splitlines()[-1])


def test_every_row_of_the_table_is_measured_by_a_part():
    assert {row.row for row in page.TABLE} == set(bench.ROWS)


@pytest.mark.parametrize("flags", [[], ["--quick"]])
def test_without_rows_every_part_measures_all_of_its_rows(flags, monkeypatch, tmp_path):
    asked: list[tuple[str, list[str], bool]] = []
    monkeypatch.setattr(bench, "lines_of", answering({}, asked))
    assert bench.main([*flags, "--page", str(tmp_path / "page.md")]) == 0
    assert asked == [(part, list(rows), bool(flags)) for part, rows in bench.PARTS.items()]


def test_only_the_parts_of_the_named_rows_run():
    assert bench.chosen(["idle", "embedded"]) == {
        "ours": ["idle"],
        "peers": ["idle"],
        "embedded": ["embedded"],
    }


def test_an_unknown_row_is_refused_with_the_names_of_all(capsys):
    with pytest.raises(SystemExit):
        bench.main(["--rows", "idle,sped"])
    assert "no row sped; there are speed, idle, create" in capsys.readouterr().err


def test_missing_packages_are_named_before_anything_runs(monkeypatch, capsys):
    monkeypatch.setattr(bench.processes, "missing", lambda: "redis-server haproxy")
    with pytest.raises(SystemExit):
        bench.main([])
    assert "install the packages redis-server haproxy" in capsys.readouterr().err


def test_a_quick_run_is_smaller_in_everything():
    quick = dataclasses.asdict(sizes.QUICK)
    full = dataclasses.asdict(sizes.FULL)
    assert [name for name in full if quick[name] > full[name]] == []
    assert quick["list_few"] < quick["list_many"]


def test_rows_that_are_not_measured_keep_their_lines(monkeypatch, tmp_path):
    path = tmp_path / "page.md"
    path.write_text(page.written(bench.EMPTY, [OLD | {"who": "certctrl", "web_ms": 9.5}]))
    new = {"ours": [{"row": "idle", "who": "certctrl", "p50_s": 0.5}]}
    monkeypatch.setattr(bench, "lines_of", answering(new, []))
    assert bench.main(["--rows", "idle", "--page", str(path)]) == 0
    assert "| 9.50 ms |" in path.read_text()
    assert "| 0.50 s |" in path.read_text()


def test_the_page_is_written_after_each_part(monkeypatch, tmp_path):
    path = tmp_path / "page.md"

    def lines_of(part: str, rows: list[str], quick: bool) -> list[dict[str, Any]]:
        if part == "peers":
            raise KeyboardInterrupt
        return [{"row": "idle", "who": "certctrl", "p50_s": 0.5}]

    monkeypatch.setattr(bench, "lines_of", lines_of)
    with pytest.raises(KeyboardInterrupt):
        bench.main(["--page", str(path)])
    assert "| 0.50 s |" in path.read_text()


def test_a_quick_run_leaves_the_page_in_docs_alone(monkeypatch, capsys):
    before = page.PAGE.read_text()
    new = {"ours": [{"row": "idle", "who": "certctrl", "p50_s": 0.5}]}
    monkeypatch.setattr(bench, "lines_of", answering(new, []))
    assert bench.main(["--quick"]) == 0
    assert "| 0.50 s |" in capsys.readouterr().out
    assert page.PAGE.read_text() == before


def test_a_part_that_fails_keeps_its_lines_and_fails_the_run(monkeypatch, tmp_path, capsys):
    line = {"row": "idle", "who": "certctrl", "p50_s": 0.5}
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "benchmarks/__init__.py").touch()
    code = f"print('''{json.dumps(line)}''', flush=True)\nraise SystemExit(3)\n"
    (tmp_path / "benchmarks/ours.py").write_text(code)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert list(bench.lines_of("ours", ["idle", "lists"], quick=True)) == [
        line,
        {"row": "lists", "error": "exit status 3"},
    ]
    assert '"p50_s": 0.5' in capsys.readouterr().out


@pytest.mark.parametrize(("target", "flags"), [("bench", []), ("bench-quick", ["--quick"])])
def test_make_passes_arguments_on(target: str, flags: list[str]):
    assert (
        command(target)[-5 - len(flags) :]
        == [
            ".venv/bin/python",
            "-m",
            "benchmarks",
            *flags,
            "--rows",
            "idle",
        ][-5 - len(flags) :]
    )


def test_the_module_of_each_part_can_be_run():
    for part in bench.PARTS:
        assert (Path(PROJECT) / f"benchmarks/{part}.py").exists()
        assert callable(sys.modules[f"benchmarks.{part}"].main)
