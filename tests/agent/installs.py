"""An install without a server: a plan, a certificate, and what is read at the targets."""

from pathlib import Path
from typing import Any

from nacl.public import PrivateKey

from certctrl_agent.install import BETWEEN_LOOKS, Installer, Wanted
from certctrl_agent.materials import Material
from certctrl_agent.plan import Plan
from certctrl_agent.state import State
from tests.agent.pki import Issued

DEVICE = PrivateKey.generate()


def wanted(issued: Issued, *items: dict[str, Any], number: int = 7) -> Wanted:
    plan = Plan({"version": 1, "installs": list(items)})
    material = Material.of(issued.detail, issued.plain(), DEVICE)
    chain = material.chain
    return Wanted(
        ("cert", number),
        chain.serial,
        chain.fingerprint,
        chain.leaf,
        plan.steps(("cert", number)),
        material.files,
    )


def installer(state: State, now: Any = None) -> Installer:
    return Installer(state, lambda line: None, now or (lambda: 1_000_000.0))


def proved(agent: Installer, want: Wanted) -> float:
    """Look as often as a proof needs. Return the seconds until there is more to do."""
    while (due := agent.advance(want)) == BETWEEN_LOOKS:
        pass
    return due


def states(state: State) -> list[str]:
    return [event["state"] for event in state.load("reports", [])]


def pair(key: Path, chain: Path) -> tuple[str, str] | None:
    """Return what a server reads, or None if it reads nothing."""
    if not key.exists() and not chain.exists():
        return None
    return key.read_text(), chain.read_text()


def pair_of(issued: Issued) -> tuple[str, str]:
    return issued.key_pem, issued.fullchain
