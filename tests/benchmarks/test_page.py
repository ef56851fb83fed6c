"""The table of docs/performance.md is made from the raw lines on the same page."""

from typing import Any

import pytest

from benchmarks import page

RUN = {"run": "2027-01-01 10:00 UTC", "commit": "abc1234", "quick": False}
OURS = {"who": "certctrl", "part": "ours", **RUN}
LEGO = {"who": "lego", "part": "peers", **RUN}


def speed(**figures: Any) -> dict[str, Any]:
    return {"row": "speed", **OURS, "n": 500, "per_s": 20.0, "cpu_ms": 65.4321, **figures}


def lego(clients: int, per_s: float) -> dict[str, Any]:
    return {"row": "speed", **LEGO, "clients": clients, "n": 500, "per_s": per_s, "cpu_ms": 30.0}


def row_of(lines: list[dict[str, Any]], label: str) -> list[str]:
    """Return the cells of the row whose label begins so."""
    rows = [line.strip("| ").split(" | ") for line in page.table(lines).splitlines()]
    return next(cells for cells in rows if cells[0].startswith(label))


def test_a_row_has_every_client_the_ratio_and_the_goal():
    lines = [speed(), lego(32, 10.0), lego(10, 8.0)]
    assert row_of(lines, "CPU for each") == [
        "CPU for each certificate, all processes",
        "65.4 ms",
        "30.0 ms",
        "30.0 ms",
        "-",
        "2.18",
        "at most 70 ms",
    ]


def test_a_label_has_the_numbers_of_the_run():
    assert (
        row_of([speed(n=1500)], "Certificates")[0]
        == "Certificates a second, 1,500 names, median turn"
    )


def test_of_turns_the_median_of_each_client_is_compared():
    ours = [speed(per_s=per_s, cpu_ms=1000 / per_s) for per_s in (20.0, 40.0, 25.0)]
    lines = [*ours, lego(32, 5.0), lego(32, 10.0), lego(32, 9.0), lego(10, 8.0)]
    certctrl, of_32, of_10, _, ratio = row_of(lines, "Certificates")[1:6]
    assert (certctrl, of_32, of_10, ratio) == ("25.0", "9.00", "8.00", "2.78")
    assert row_of(lines, "CPU for each")[1] == "40.0 ms"


def test_a_missed_goal_is_marked():
    assert row_of([speed(cpu_ms=71.0)], "CPU for each")[-1] == "at most 70 ms (missed)"


@pytest.mark.parametrize(("per_s", "end"), [(8.0, ""), (8.1, " (missed)")])
def test_the_goal_of_the_pace_depends_on_lego(per_s: float, end: str):
    cells = row_of([speed(), lego(32, per_s)], "Certificates")
    assert cells[-1] == f"at least 2.50 times lego{end}"


def test_a_goal_of_none_is_missed_by_one():
    lines = [{"row": "killed", **OURS, "n": 10, "lost": 1, "ordered_twice": 0}]
    assert row_of(lines, "· attempts lost")[-1] == "at most 0 (missed)"
    assert row_of(lines, "· attempts ordered")[-1] == "at most 0"


def test_a_client_that_is_not_installed_says_so():
    lines = [speed(), {"row": "speed", **LEGO, "left_out": "not installed"}]
    cells = row_of(lines, "Certificates")
    assert cells[2:4] == ["not installed"] * 2
    assert cells[5] == "-"


def test_one_client_at_a_time_is_in_every_column_of_lego():
    lines = [
        {"row": "idle", **OURS, "p50_s": 0.5},
        {"row": "idle", **LEGO, "p50_s": 1.0},
    ]
    assert row_of(lines, "One certificate on")[1:4] == ["0.50 s", "1.00 s", "1.00 s"]


def test_the_list_page_is_compared_with_the_shortest_list():
    lines = [
        {"row": "lists", **OURS, "certificates": number, "p50_ms": took}
        for number, took in ((1_000_000, 44.0), (1_000, 40.0))
    ]
    assert row_of(lines, "List page")[0:2] == ["List page of 100, of 1,000 (p50)", "40.0 ms"]
    assert row_of(lines, "· the same")[0:2] == ["· the same, of 1,000,000", "44.0 ms"]
    assert row_of(lines, "· ratio")[1] == "1.10"


def test_a_row_without_a_line_is_not_measured():
    rows = page.table([]).splitlines()[2:]
    assert [row.split(" | ")[1] for row in rows] == ["not measured"] * len(page.TABLE)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0, "0"), (100_000, "100,000"), (0.123, "0.12"), (12.34, "12.3"), (3456.7, "3,457")],
)
def test_a_number_has_about_three_digits(value: float, text: str):
    assert page.shown(value) == text


def test_only_the_part_between_the_marks_is_written():
    before = f"# Speed\n\nBy hand.\n\n{page.BEGIN}\nbefore\n{page.END}\n\n## Also by hand\n"
    after = page.written(before, [speed()])
    assert after.startswith(f"# Speed\n\nBy hand.\n\n{page.BEGIN}\n")
    assert after.endswith(f"{page.END}\n\n## Also by hand\n")
    assert "before" not in after
    assert "65.4 ms" in after


def test_the_raw_lines_are_read_back_from_the_page():
    lines = [speed(), lego(32, 10.0)]
    text = page.written(f"{page.BEGIN}{page.END}", lines)
    assert page.raw_lines(text) == lines
    assert page.written(text, page.raw_lines(text)) == text


def test_a_row_that_is_measured_again_replaces_only_its_own_lines():
    new = speed(per_s=30.0)
    kept = [lego(32, 10.0), {"row": "idle", **OURS, "p50_s": 0.5}]
    assert page.replaced([speed(), *kept], [new]) == [*kept, new]


def test_each_run_on_the_page_says_which_rows_it_measured():
    quick = speed() | {"run": "2027-01-02 10:00 UTC", "quick": True, "foreign_cores": 0.25}
    text = page.section([{"row": "idle", **OURS, "p50_s": 0.5}, quick])
    assert "\nRun of 2027-01-01 10:00 UTC, commit abc1234: idle." in f"\n{text}"
    assert "\nQuick run of 2027-01-02 10:00 UTC, commit abc1234: speed." in text
    assert "up to 0.25 of the cores" in text


def test_a_part_that_did_not_end_is_on_the_page():
    error = {"row": "lists", "part": "ours", **RUN, "error": "exit status 1"}
    assert "The part `ours` did not end, so lists is not complete" in page.section([error])
    assert row_of([error], "List page")[1] == "not measured"


def test_the_page_in_docs_is_what_its_raw_lines_make():
    text = page.PAGE.read_text()
    assert page.written(text, page.raw_lines(text)) == text


def test_the_page_in_docs_has_a_figure_of_every_row():
    lines = page.raw_lines(page.PAGE.read_text())
    assert "not measured" not in page.table(lines)
