"""A systemd service that runs the agent with few rights."""

from collections.abc import Iterable
from pathlib import Path

from certctrl_agent.errors import AgentError

UNIT = Path("/etc/systemd/system/certctrl-agent.service")
# The commands of the plan inherit all of it. So it has no MemoryDenyWriteExecute, which a JIT of
# nginx or HAProxy needs to write, and it keeps the capabilities with which `nginx -t` binds and
# with which a command runs as another user.
TEMPLATE = """\
[Unit]
Description=certctrl agent: installs certificates and proves that they are served
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=exec
ExecStart={command}
Restart=always
RestartSec=5
ProtectSystem=strict
ReadWritePaths={writes}
ProtectHome=read-only
PrivateTmp=yes
PrivateDevices=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
LockPersonality=yes
NoNewPrivileges=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallErrorNumber=EPERM
CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_DAC_READ_SEARCH CAP_FOWNER CAP_KILL \
CAP_NET_BIND_SERVICE CAP_SETGID CAP_SETUID

[Install]
WantedBy=multi-user.target
"""


def unit(command: Iterable[str], writes: Iterable[Path]) -> str:
    """Return the unit. Only the folders in `writes` can be written to. They must exist."""
    return TEMPLATE.format(
        command=" ".join(quoted(part) for part in command),
        writes=" ".join(quoted(f"-{folder}") for folder in writes),
    )


def quoted(text: str) -> str:
    """Return a word as systemd reads it."""
    if any(ord(character) < 32 for character in text):
        raise AgentError(f"{text!r} cannot be in a unit of systemd.")
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{escaped}"' if escaped != text or " " in text else text
