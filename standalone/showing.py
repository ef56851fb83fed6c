"""The lab's part of the text of `make run`, and its certificate.

The first start issues the certificate.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from certctrl import clock
from lab.demo import DOMAIN, Api, Demo, DemoProblem, calls

if TYPE_CHECKING:
    from lab.loopback import Lab
    from standalone.administrator import Administrator
    from standalone.embedded import Embedded


def lines(server: "Embedded", admin: "Administrator", wait: Callable[[float], None]) -> list[str]:
    """Issue the lab's certificate if there is none yet, and return the lines about it."""
    assert server.lab
    try:
        told = have(server, server.lab, admin, wait)
    except DemoProblem as exc:
        return [f"  lab            {DOMAIN} is not issued. {exc}"]
    password = admin.password or "your password"
    return [
        f"  lab            {DOMAIN} and *.{DOMAIN}, {told}",
        f"                 {verify(server.lab)}",
        "",
        "Two calls that issue another certificate:",
        "",
        *calls(server.address, admin.email, password, server.state["demo"]),
    ]


def have(
    server: "Embedded", lab: "Lab", admin: "Administrator", wait: Callable[[float], None]
) -> str:
    """Issue the certificate if needed, and return a few words about it.

    Raise DemoProblem when it cannot be issued.
    """
    if "demo" in server.state and not admin.is_new:
        return "issued at an earlier start"
    if not admin.password:
        raise DemoProblem(
            "The lab needs the administrator's password once. Start with ADMIN_PASSWORD set."
        )
    api = Api(server.address)
    api.log_in(admin.email, admin.password)
    began = clock.monotonic()
    try:
        issued = Demo(api, lab, admin.email, wait).issue()
    finally:
        api.log_out()
    took = clock.monotonic() - began
    chain_file(lab).write_text(issued.chain)
    server.state.keep(demo=issued.ids())
    return f"issued in {took:.1f} s"


def chain_file(lab: "Lab") -> Path:
    return lab.folder / f"{DOMAIN}.pem"


def verify(lab: "Lab") -> str:
    chain = chain_file(lab)
    return f"openssl verify -CAfile {lab.root} -untrusted {chain} {chain}"
