"""Which plans are accepted, and in which order their items run."""

import pytest

from certctrl_agent.errors import PlanError
from certctrl_agent.plan import Plan, TlsCheck
from tests.agent.plans import copy, run


def plan(*installs):
    return Plan({"version": 1, "installs": list(installs)})


def test_a_plan_has_the_targets_and_commands_of_a_certificate() -> None:
    made = plan(
        copy({"private.key": "/etc/tls/a.key", "fullchain.pem": "/etc/tls/a.pem"}),
        run("reload", "nginx -s reload", depends_on=["test"]),
        run("test", ["nginx", "-t"], depends_on=["copy"]),
        run("other", "true", depends_on=["copy-8"]),
        copy({"private.key": "/etc/tls/b.key"}, number=8, id="copy-8"),
    )
    steps = made.steps(("cert", 7))
    assert steps.targets == (("private.key", "/etc/tls/a.key"), ("fullchain.pem", "/etc/tls/a.pem"))
    assert [each.argv for each in steps.tests] == [("nginx", "-t")]
    assert [each.argv for each in steps.reloads] == [("nginx", "-s", "reload")]
    assert [each.argv for each in made.steps(("cert", 8)).reloads] == [("true",)]
    assert made.subjects() == [("cert", 7), ("cert", 8)]


def test_an_exec_without_dependencies_runs_for_every_certificate() -> None:
    made = plan(
        copy({"private.key": "/a"}), copy({"private.key": "/b"}, 8, id="b"), run("reload", "true")
    )
    assert len(made.steps(("cert", 7)).reloads) == len(made.steps(("cert", 8)).reloads) == 1


def test_an_item_that_is_not_enabled_is_left_out() -> None:
    made = plan(copy({"private.key": "/a"}), run("reload", "true", enabled=False))
    assert made.steps(("cert", 7)).reloads == ()


def test_a_tls_check_has_its_members() -> None:
    verify = {"type": "tls", "address": "::1", "port": 25, "sni": "mx.example.com"}
    verify |= {"starttls": "smtp", "grace_seconds": 90}
    steps = plan(copy({"private.key": "/a"}, verify=verify)).steps(("cert", 7))
    assert steps.tls == (TlsCheck("::1", 25, "mx.example.com", "smtp", 90),)
    assert str(steps.tls[0]) == "[::1]:25 (mx.example.com)"


def test_the_identity_of_the_steps_changes_with_the_plan() -> None:
    one, same, other = (
        plan(copy({"private.key": path})).steps(("cert", 7)).digest for path in ("/a", "/a", "/b")
    )
    assert one == same != other


@pytest.mark.parametrize(
    "target",
    ["tls/a.key", "/etc/../a", "/etc/tls/..", "/etc/tls/", "/", "//host/a", "a\0b", 7, None],
)
def test_a_target_that_is_not_an_absolute_file_is_refused(target) -> None:
    with pytest.raises(PlanError):
        plan(copy({"private.key": target}))


def test_an_empty_target_is_unset() -> None:
    made = plan(copy({"private.key": "", "certificate.pem": "/a.pem"}))
    assert made.steps(("cert", 7)).targets == (("certificate.pem", "/a.pem"),)


@pytest.mark.parametrize(
    "item",
    [
        run("x", "true", ob_type="cert", ob_id=7),
        run("x", ""),
        run("x", "nginx -t && nginx -s reload"),
        run("x", "cat /etc/passwd | mail me"),
        run("x", "echo 'open"),
        run("x", ["true", 7]),
        run("x", "true", env={"A": 1}),
        run("x", "true", timeout_ms=-1),
        run("x", "true", depends_on="y"),
        copy({"privkey.pem": "/a"}),
        copy({"ca.pem": "/a"}),
        copy({"private.key": "/a"}, number=0),
        copy({"private.key": "/a"}, ob_type="device"),
        copy({"private.key": "/a"}) | {"to": []},
        copy({"private.key": "/a"}, verify={"type": "luck"}),
        copy({"private.key": "/a"}, verify={"type": "tls", "port": 443}),
        copy({"private.key": "/a"}, verify={"type": "tls", "address": "a", "port": 70000}),
        copy(
            {"private.key": "/a"},
            verify={"type": "tls", "address": "a", "port": 1, "starttls": "ftp"},
        ),
        {"type": "import_ca", "ob_type": "cert", "ob_id": 7},
        {"type": "rm"},
        "copy",
    ],
)
def test_an_item_that_this_agent_does_not_do_is_refused(item) -> None:
    with pytest.raises(PlanError):
        plan(item)


def test_items_that_depend_on_each_other_are_refused() -> None:
    with pytest.raises(PlanError, match="a, b"):
        plan(run("a", "true", depends_on=["b"]), run("b", "true", depends_on=["a"]))


def test_two_items_with_one_target_are_refused() -> None:
    with pytest.raises(PlanError, match=r"/a\.key 2 times"):
        plan(copy({"private.key": "/a.key"}), copy({"private.key": "/a.key"}, 8, id="b"))


@pytest.mark.parametrize("data", [None, [], {}, {"installs": {}}, {"installs": [], "version": "1"}])
def test_a_plan_of_another_form_is_refused(data) -> None:
    with pytest.raises(PlanError):
        Plan(data)
