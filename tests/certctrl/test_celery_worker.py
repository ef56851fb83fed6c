"""The work of a Celery worker before, between and after its tasks."""

import os

from celery import signals

from certctrl import celery


def ended_with(monkeypatch, worker: int | None) -> int:
    """Return the exit status of a forked child whose worker has the pid `worker`. 0: it continues.

    Without `worker` the child is the worker itself.
    """
    monkeypatch.setenv("CERTCTRL_WORKER", str(worker))
    child = os.fork()
    if child == 0:
        if worker is None:
            signals.worker_init.send(sender=None)
        signals.worker_process_init.send(sender=None)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_forked_child_works_for_the_worker_that_is_its_parent(monkeypatch):
    assert celery.app.main == "certctrl"
    assert ended_with(monkeypatch, os.getpid()) == 0


def test_a_forked_child_whose_worker_died_before_it_began_leaves(monkeypatch):
    assert ended_with(monkeypatch, os.getpid() + 1) == 1


def test_a_solo_worker_that_forks_no_process_works(monkeypatch):
    assert ended_with(monkeypatch, None) == 0
