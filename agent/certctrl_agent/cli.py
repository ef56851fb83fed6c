"""The command `certctrl-agent`."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer

from certctrl_agent import __version__, commands, enrol, files, recognise, service
from certctrl_agent.config import Config
from certctrl_agent.errors import AgentError
from certctrl_agent.follow import Follower
from certctrl_agent.install import RECORDS
from certctrl_agent.materials import Chain, Material
from certctrl_agent.plan import Plan
from certctrl_agent.server import Server
from certctrl_agent.state import State, default_folder
from certctrl_agent.stopping import Stop
from certctrl_agent.versions import Versions

app = typer.Typer(
    help="Fetch certificates from a certctrl server, install them, and prove that they are served.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)

Folder = Annotated[
    Path | None,
    typer.Option(
        "--state",
        envvar="CERTCTRL_AGENT_STATE",
        help="The folder of the agent's key and state. Default: /var/lib/certctrl-agent for root.",
    ),
]


def main() -> None:
    """Run the command. Errors for people are one line, and the exit status 1."""
    os.umask(0o022)  # files have their own modes, and folders of targets are for servers
    try:
        app()
    except (AgentError, OSError) as error:
        typer.echo(f"certctrl-agent: {error}", err=True)
        sys.exit(1)


def opened(folder: Path | None) -> State:
    return State(folder or default_folder())


def say(line: str) -> None:
    """Print a line at once. systemd's journal adds the time."""
    typer.echo(line)


@app.command()
def login(
    server: Annotated[str, typer.Argument(help="Example: https://certs.example.com")],
    api_key: Annotated[
        str,
        typer.Option(
            envvar="CERTCTRL_API_KEY",
            help="Enrol with an API key, or with a fleet's enrolment key, instead of a person. "
            "`-` reads it from the standard input.",
        ),
    ] = "",
    name: Annotated[str, typer.Option(help="The name of the device. Default: the host name.")] = "",
    ca_file: Annotated[
        Path | None,
        typer.Option(exists=True, help="PEM of the CAs to trust instead of the machine's own."),
    ] = None,
    folder: Folder = None,
) -> None:
    """Enrol this machine as a device: with a person who approves it, or with an API key."""
    state = opened(folder)
    trusted = str(ca_file.absolute()) if ca_file else None
    peer = Server(server, trusted)
    stop = Stop().listen()

    def pause(seconds: float) -> None:
        if stop.wait(seconds):
            raise AgentError("Interrupted. Nothing was changed.")

    if api_key == "-":
        api_key = sys.stdin.readline().strip()
    if api_key:
        device = enrol.with_key(state, peer, name, trusted, api_key, pause)
    else:
        device = enrol.with_person(state, peer, name, trusted, show_grant, pause)
    say(f"Enrolled as device {device['id']} ({device['name']}) of {device['server']}.")
    found = [program.name for program in recognise.programs()]
    if found:
        say(f"Found {', '.join(found)}. For a plan: certctrl-agent propose --certificate ID")


def show_grant(grant: dict[str, Any]) -> None:
    say(f"Open {grant['verification_uri']} and enter {grant['user_code']}")
    say(f"or open {grant['verification_uri_complete']}")


@app.command()
def run(folder: Folder = None) -> None:
    """Follow the server, and install what it has, until SIGTERM."""
    Follower(opened(folder), say).run(Stop().listen())


@app.command()
def once(
    seconds: Annotated[
        float, typer.Option(help="How long to wait for keys and for grace periods.")
    ] = 120,
    folder: Folder = None,
) -> None:
    """Fetch and install once. The exit status is 1 if something is not as it should be."""
    state = opened(folder)
    Follower(state, say).once(Stop().listen(), seconds)
    records = state.load(RECORDS, {}).values()
    if any("failed" in record or "trial" in record for record in records):
        raise typer.Exit(1)


@app.command()
def validate(folder: Folder = None) -> None:
    """Check the plan, its targets and the fetched keys, and run the test commands only."""
    state = opened(folder)
    Config.of(state.folder)
    raw = state.load("plan")
    if raw is None:
        raise AgentError("There is no plan yet. Run: certctrl-agent once")
    findings = [finding for check in checks(state, Plan(raw)) for finding in failure(check)]
    for finding in findings:
        say(finding)
    if findings:
        raise typer.Exit(1)
    say("The plan and its files are in order.")


def checks(state: State, plan: Plan) -> Iterable[Callable[[], object]]:
    """Yield the checks. Each raises AgentError or OSError when it finds something."""
    tests = dict[str, Callable[[], object]]()
    for subject in plan.subjects():
        steps = plan.steps(subject)
        targets = [target for _, target in steps.targets]
        yield Versions(subject, targets, state.live).check
        known = state.load(f"certificates/{subject[1]}") if subject[0] == "cert" else None
        if known:
            yield lambda known=known: Material.of(known["detail"], known["bundle"], state.key())  # type: ignore[misc]
        for command in steps.tests:
            tests[repr(command)] = lambda command=command: commands.run(command)  # type: ignore[misc]
    yield from tests.values()


def failure(check: Callable[[], object]) -> list[str]:
    try:
        check()
    except (AgentError, OSError) as error:
        return [str(error)]
    return []


@app.command()
def status(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    folder: Folder = None,
) -> None:
    """Show this device, and what is installed. It asks nobody."""
    state = opened(folder)
    device, plan = state.device(), state.load("plan", {})
    records = state.load(RECORDS, {})
    about = {
        "device": {name: device[name] for name in ("server", "id", "public_id", "name")},
        "agent_version": __version__,
        "plan_version": plan.get("version"),
        "unsent_reports": len(state.load("reports", [])),
        "certificates": [
            described(number, Chain.of(state.load(f"certificates/{number}")["detail"]), records)
            for number in state.names("certificates")
        ],
    }
    if as_json:
        say(json.dumps(about, indent=1))
        return
    say(f"Device {device['id']} ({device['name']}) of {device['server']}")
    say(f"Plan version {about['plan_version']}, {about['unsent_reports']} reports not sent")
    for each in about["certificates"]:
        say(f"Certificate {each['id']}: serial {each['serial']} until {each['not_after']}")
        say(f"  {each['state']}{': ' + each['what'] if each['what'] else ''}")


def described(number: int, chain: Chain, records: dict[str, Any]) -> dict[str, Any]:
    record = records.get(f"cert-{number}", {})
    failed, done = record.get("failed", {}), record.get("done", {})
    if "trial" in record:
        state, what = "on trial", ""
    elif failed.get("identity", "").startswith(chain.fingerprint):
        state, what = failed["state"], failed["what"]
    elif done.get("identity", "").startswith(chain.fingerprint):
        state, what = "installed", f"since {datetime.fromtimestamp(done['at'], UTC):%FT%TZ}"
    else:
        state, what = "fetched", ""
    return {
        "id": number,
        "serial": chain.serial,
        "not_after": chain.leaf.not_valid_after_utc.strftime("%FT%TZ"),
        "state": state,
        "what": what,
        "installed_serial": done.get("serial"),
    }


@app.command()
def propose(
    certificate: Annotated[int, typer.Option(help="The id of the certificate at the server.")],
    name: Annotated[str, typer.Option(help="Only the site with this name.")] = "",
    server: Annotated[str, typer.Option(help="nginx, apache, haproxy or caddy")] = "",
) -> None:
    """Print a plan for the servers of this machine, as JSON for a PUT of install-config."""
    programs = [each for each in recognise.programs() if server in ("", each.name)]
    if not programs:
        raise AgentError("No nginx, Apache, HAProxy or Caddy was found on this machine.")
    found = [(program, site) for program in programs for site in program.sites()]
    matching = [(program, site) for program, site in found if name in ("", site.name)]
    if not matching:
        known = ", ".join(f"{site.name or '(no name)'} of {site.server}" for _, site in found)
        raise AgentError(
            f"No site {name} with TLS was found. There are: {known}."
            if known
            else f"{', '.join(p.name for p in programs)}: no site with TLS was found. "
            "Configure TLS with the paths of your choice, and run this again."
        )
    chosen = {site.server for _, site in matching}
    pairs = {site.files for _, site in matching}
    if len(chosen) > 1 or len(pairs) > 1:
        known = ", ".join(f"{site.name or '(no name)'} of {site.server}" for _, site in matching)
        raise AgentError(f"More than one certificate is here: {known}. Use --name and --server.")
    program = matching[0][0]
    say(
        json.dumps(
            recognise.proposal(program, [site for _, site in matching], certificate), indent=1
        )
    )


@app.command()
def install_service(
    write: Annotated[
        list[Path] | None,
        typer.Option(help="A folder that the agent and its commands may write to. Repeat it."),
    ] = None,
    print_only: Annotated[
        bool, typer.Option("--print", help="Print the unit, and change nothing.")
    ] = False,
    folder: Folder = None,
) -> None:
    """Install a systemd service with few rights, and start it."""
    state = opened(folder)
    command = [sys.executable, "-m", "certctrl_agent", "run", "--state", str(state.folder)]
    text = service.unit(command, writable(state, write or []))
    if print_only:
        say(text)
        return
    state.device()
    state.live.mkdir(mode=0o755, exist_ok=True)
    files.replace(service.UNIT, text.encode(), 0o644)
    name = service.UNIT.name
    for words in (["daemon-reload"], ["enable", "--quiet", name], ["restart", name]):
        subprocess.run(["systemctl", *words], check=True)
    say(f"{name} runs. See: journalctl -u {service.UNIT.stem}")


def writable(state: State, more: list[Path]) -> list[Path]:
    """Return the folders of the state, the plan's targets, the webroot, and those in `more`."""
    raw = state.load("plan", {"installs": []})
    items = Plan(raw).items
    targets = [Path(target).parent for item in items for _, target in item.pairs]
    webroot = Config.of(state.folder).webroot
    named = [*([webroot] if webroot else []), *more]
    return list(dict.fromkeys([state.folder, state.live, *sorted(targets), *named]))


if __name__ == "__main__":
    main()
