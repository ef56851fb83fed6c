"""CPU and memory are those of a process with all its descendants."""

import os

import pytest

from benchmarks import measuring, site
from benchmarks.measuring import Stat

#   1 ── 10 ── 11 ── 12
#    └── 20
PROCESSES = {
    1: Stat(0, 100.0, 0),
    10: Stat(1, 1.0, 0),
    11: Stat(10, 2.0, 0),
    12: Stat(11, 4.0, 0),
    20: Stat(1, 8.0, 0),
}


def test_a_family_has_children_of_children():
    assert measuring.family(10, PROCESSES) == {10, 11, 12}


def test_a_process_that_ended_has_no_family():
    assert measuring.family(30, PROCESSES) == set()


def test_the_cpu_of_a_process_includes_its_descendants():
    assert measuring.cpu_of(10, PROCESSES) == 7.0


def test_this_process_is_among_all_and_has_memory():
    assert measuring.stats()[os.getpid()].parent == os.getppid()
    assert 0 < measuring.pss_of([os.getpid()]) <= measuring.rss_of(os.getpid())


def test_a_meter_has_a_figure_for_each_name():
    used, foreign = measuring.Meter({"here": os.getpid()}).read()
    assert used.keys() == {"here"}
    assert used["here"] >= 0
    assert foreign >= 0


def test_the_processes_of_a_group_are_added_up():
    cpu = {"worker1": 1.0, "worker2": 2.0, "clock": 4.0, "beat": 8.0, "web": 16.0}
    assert site.grouped(cpu) == {"workers": 3.0, "clock": 12.0, "web": 16.0}


@pytest.mark.parametrize(
    ("value", "printed"), [(0.12345, '{"figure": 0.123}\n'), (7, '{"figure": 7}\n')]
)
def test_a_raw_line_has_three_decimals(value, printed, capsys):
    measuring.tell(figure=value)
    assert capsys.readouterr().out == printed
