"""One of four nginx servers gets a renewal first. What it reports decides about the others."""

import contextlib

import pytest

from tests.agent import webservers
from tests.e2e.test_agents import agents, enrol, issue, owner, renew, serial_of  # noqa: F401
from tests.standalone.starting import until

pytestmark = [
    pytest.mark.e2e,
    pytest.mark.slow,
    pytest.mark.skipif(webservers.NGINX is None, reason="needs nginx"),
]


def test_a_canary_that_rolls_back_stops_the_rollout(owner, agents) -> None:  # noqa: F811
    certificate = issue(owner)
    devices = enrol(owner, agents, certificate)
    path = f"certificates/{certificate}"
    owner.mine("PUT", path, {"rollout": "canary"})
    first = serial_of(owner, certificate)

    def served() -> int:
        return int(owner.mine("GET", path)["deployment"]["served"])

    with contextlib.ExitStack() as stack:
        for agent in agents:
            stack.enter_context(agent.running())
        until(lambda: served() == 4, "all have reported that they serve the first version")

        canary, *others = agents
        canary.web.break_configuration()
        second = renew(owner, certificate)
        until(lambda: canary.said("rolled_back"), "the canary rolls back")
        until(lambda: owner.mine("GET", path)["deployment"]["failed"] == 1, "its report is there")
        assert all(agent.serves(first) for agent in agents)
        counts = owner.mine("GET", path)["deployment"]
        assert (counts["devices"], counts["wanted"], counts["fetched"]) == (4, 1, 1)
        (notice,) = (each for each in owner.mine("GET", "notices") if each["kind"] == "not_served")
        assert notice["data"]["device_id"] == devices[0]
        assert canary.folder.name in notice["subject"]
        assert "no_such_word" in notice["body"]

        owner.mine("PUT", path, {"rollout": "all"})
        until(lambda: all(agent.serves(second) for agent in others), "the others serve it")
        until(lambda: served() == 3, "they have reported it")
        assert canary.serves(first)
