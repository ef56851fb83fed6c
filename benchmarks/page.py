"""The table of docs/performance.md, made from the raw lines that are kept on the same page.

Only the part between the two marks is written. The rest of the page is kept by hand.
"""

import json
import operator
import pathlib
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

PAGE = pathlib.Path(__file__).resolve().parent.parent / "docs" / "performance.md"
BEGIN = "<!-- `make bench` writes from here -->"
END = "<!-- to here -->"
RAW = re.compile(r"^```json\n(.*?)^```$", re.DOTALL | re.MULTILINE)
# The columns: the heading, the client, and how many of it run at once.
COLUMNS = (
    ("certctrl", "certctrl", None),
    ("lego, 32 at once", "lego", 32),
    ("lego, 10 at once", "lego", 10),
    ("certbot, 2 at once", "certbot", 2),
)
NONE = "-"

Line = dict[str, Any]


class Goal(NamedTuple):
    """`words` has {} for the bound. With `of`, the bound is that many times lego's figure."""

    words: str
    holds: Callable[[float, float], bool]
    bound: float
    of_lego: bool = False


def most(bound: float) -> Goal:
    return Goal("at most {}", operator.le, bound)


def least(bound: float, of_lego: bool = False) -> Goal:
    return Goal("at least {}", operator.ge, bound, of_lego)


def middle(lines: Sequence[Line]) -> Line:
    """Return the only line, or the median by `per_s` of those that were measured in turn."""
    return sorted(lines, key=lambda line: line.get("per_s", 0.0))[len(lines) // 2]


class Row(NamedTuple):
    """`row` names the measurement, and `field` the figure in its raw line.

    `label` may have the other fields of the line. `pick` selects among several lines.
    """

    row: str
    label: str
    field: str
    unit: str = ""
    goal: Goal | None = None
    pick: Callable[[Sequence[Line]], Line] = middle


def fewest(lines: Sequence[Line]) -> Line:
    return min(lines, key=operator.itemgetter("certificates"))


def longest(lines: Sequence[Line]) -> Line:
    return max(lines, key=operator.itemgetter("certificates"))


def beside_fewest(lines: Sequence[Line]) -> Line:
    """Return the line of the long list, with the ratio to the short one."""
    line = longest(lines)
    return line | {"ratio": line["p50_ms"] / fewest(lines)["p50_ms"]}


TABLE = (
    Row(
        "speed",
        "Certificates a second, {n} names, median turn",
        "per_s",
        goal=least(2.5, of_lego=True),
    ),
    Row("speed", "CPU for each certificate, all processes", "cpu_ms", "ms", most(70)),
    Row("speed", "· workers", "workers_ms", "ms"),
    Row("speed", "· web", "web_ms", "ms"),
    Row("speed", "· clock", "clock_ms", "ms"),
    Row("speed", "· PostgreSQL", "postgres_ms", "ms"),
    Row("speed", "· Redis", "redis_ms", "ms"),
    Row("idle", "One certificate on an idle system, until issued (p50)", "p50_s", "s", most(0.8)),
    Row("create", "A create (POST): CPU of the web process", "web_ms", "ms", most(12)),
    Row("create", "· PostgreSQL", "postgres_ms", "ms"),
    Row("waiting", "{n} attempts wait: growth of a worker", "growth_mb", "MB", most(20)),
    Row("waiting", "· looks a second", "looks_per_s", goal=least(3000)),
    Row("waiting", "· one certificate meanwhile (p50)", "new_p50_s", "s"),
    Row("killed", "All killed with {n} waiting: next look", "next_look_s", "s", most(60)),
    Row("killed", "· attempts lost", "lost", goal=most(0)),
    Row("killed", "· attempts ordered twice", "ordered_twice", goal=most(0)),
    Row(
        "killed",
        "· of {on_their_way} on their way, issued twice",
        "issued_twice",
        goal=most(0),
    ),
    Row("sockets", "{n} devices on WebSockets: memory of web for each", "kb_each", "kB", most(50)),
    Row("sockets", "· CPU of one core at rest", "idle_percent", "%"),
    Row("sockets", "· commit of a signal for all, until the last hears it", "last_s", "s", most(2)),
    Row("sockets", "· commit of a signal for one, until it hears it", "one_ms", "ms"),
    Row("polls", "{n} devices wait in polls: memory of web for each", "kb_each", "kB", most(50)),
    Row("polls", "· CPU of one core at rest", "idle_percent", "%"),
    Row("polls", "· commit of a signal for all, until the last hears it", "last_s", "s", most(2)),
    Row("polls", "· commit of a signal for one, until it hears it", "one_ms", "ms"),
    Row("lists", "List page of 100, of {certificates} (p50)", "p50_ms", "ms", pick=fewest),
    Row("lists", "· the same, of {certificates}", "p50_ms", "ms", pick=longest),
    Row("lists", "· ratio", "ratio", goal=most(1.2), pick=beside_fewest),
    Row("embedded", "Embedded server: memory (PSS)", "pss_mb", "MB", most(250)),
    Row("embedded", "· CPU of one core at rest", "idle_percent", "%", most(1)),
    Row("embedded", "· second start, until the first response", "second_start_s", "s", most(4)),
)


# --- The parts of the page ---


def written(page: str, lines: Iterable[Line]) -> str:
    """Return the page with the part between the marks made from the lines."""
    head, _, rest = page.partition(BEGIN)
    tail = rest.partition(END)[2]
    return f"{head}{BEGIN}\n\n{section(list(lines))}\n{END}{tail}"


def raw_lines(page: str) -> list[Line]:
    """Return the raw lines that are kept on the page."""
    inside = page.partition(BEGIN)[2].partition(END)[0]
    found = RAW.search(inside)
    return [json.loads(line) for line in found[1].splitlines()] if found else []


def replaced(kept: Iterable[Line], new: Sequence[Line]) -> list[Line]:
    """Return the lines, without those that a newer measurement of the same row and part has."""
    again = {(line["row"], line["part"]) for line in new}
    return [*(line for line in kept if (line["row"], line["part"]) not in again), *new]


def section(lines: list[Line]) -> str:
    raw = "\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    parts = [
        *about(lines),
        table(lines),
        *failures(lines),
        "<details><summary>Raw lines</summary>",
        f"```json\n{raw}\n```",
        "</details>",
    ]
    return "\n\n".join(parts) + "\n"


def about(lines: list[Line]) -> list[str]:
    """Return the paragraphs about the machine and the runs."""
    machines = [line for line in lines if line["row"] == "machine"]
    texts = ["; ".join(f"{key} {value}" for key, value in each["is"].items()) for each in machines]
    return [*(f"{text}." for text in texts), *runs(lines)]


def runs(lines: list[Line]) -> list[str]:
    """Return a sentence about each run: its time, its rows, and how quiet the machine was."""
    measured = [line for line in lines if line["row"] != "machine"]
    by_run: dict[tuple[str, bool, str], list[Line]] = {}
    for line in measured:
        by_run.setdefault((line["run"], line["quick"], line["commit"]), []).append(line)
    return [_run(*run, of_run) for run, of_run in sorted(by_run.items())]


def _run(run: str, quick: bool, commit: str, lines: list[Line]) -> str:
    kind = "Quick run" if quick else "Run"
    rows = ", ".join(dict.fromkeys(line["row"] for line in lines))
    foreign = max((line.get("foreign_cores", 0.0) for line in lines), default=0.0)
    return (
        f"{kind} of {run}, commit {commit}: {rows}. Programs that are not part of it used up to "
        f"{shown(foreign)} of the cores."
    )


def failures(lines: list[Line]) -> list[str]:
    return [
        f"The part `{line['part']}` did not end, so {line['row']} is not complete: {line['error']}"
        for line in lines
        if "error" in line
    ]


# --- The table ---


def table(lines: list[Line]) -> str:
    headings = ["", *(heading for heading, _, _ in COLUMNS), "certctrl ÷ lego, 32", "Goal"]
    rows = [headings, ["---", *["---:"] * (len(COLUMNS) + 1), "---"]]
    rows += [cells(row, lines) for row in TABLE]
    return "\n".join("| " + " | ".join(each) + " |" for each in rows)


def cells(row: Row, lines: list[Line]) -> list[str]:
    ours, lego, *_ = figures = [figure(row, lines, who, at) for _, who, at in COLUMNS]
    of = of_column(row, lines, "certctrl", None)
    names = {name: shown(value) for name, value in (row.pick(of) if of else {}).items()}
    label = re.sub(r"\{(\w+)\}", lambda found: names.get(found[1], "…"), row.label)
    columns = [cell(row, lines, *each) for each in zip(figures, COLUMNS, strict=True)]
    ratio = shown(ours / lego) if ours is not None and lego else NONE
    return [label, *columns, ratio, told(row.goal, row.unit, ours, lego)]


def of_column(row: Row, lines: list[Line], who: str, clients: int | None) -> list[Line]:
    """Return the lines for a column. A line without `clients` is of one client at a time."""
    return [
        line
        for line in lines
        if line["row"] == row.row
        and line.get("who") == who
        and (clients is None or line.get("clients", clients) == clients)
    ]


def figure(row: Row, lines: list[Line], who: str, clients: int | None) -> float | None:
    found = [line for line in of_column(row, lines, who, clients) if "left_out" not in line]
    return row.pick(found).get(row.field) if found else None


def cell(
    row: Row, lines: list[Line], value: float | None, column: tuple[str, str, int | None]
) -> str:
    if value is not None:
        return f"{shown(value)} {row.unit}".strip()
    left_out = [line for line in of_column(row, lines, *column[1:]) if "left_out" in line]
    if left_out:
        return str(left_out[0]["left_out"])
    return "not measured" if column[1] == "certctrl" else NONE


def told(goal: Goal | None, unit: str, ours: float | None, lego: float | None) -> str:
    """Return the goal in words, and whether it was missed."""
    if goal is None:
        return ""
    words = goal.words.format(f"{shown(goal.bound)} {unit}".strip())
    bound: float | None = goal.bound
    if goal.of_lego:
        words += " times lego"
        bound = goal.bound * lego if lego else None
    is_missed = ours is not None and bound is not None and not goal.holds(ours, bound)
    return f"{words} (missed)" if is_missed else words


def shown(value: Any) -> str:
    """Return a number as in a table: about three digits, with commas between thousands."""
    if not isinstance(value, float):
        return f"{value:,}" if isinstance(value, int) else str(value)
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"
