"""The first line of a backup: the tables, the master keys and the settings that it holds."""

from dataclasses import asdict, dataclass, field
from typing import Any

VERSION = 1
# They belong to the machine, so a new server gets its own.
PLACES = ("DATABASE_", "REDIS_", "DATA_DIR")

# The names of tables for people. Other tables are counted together.
NAMED = {
    "accounts.user": "users",
    "accounts.apikey": "API keys",
    "accounts.auditevent": "audit events",
    "authorities.acmeaccount": "ACME accounts",
    "authorities.privateca": "private CAs",
    "dnsproviders.dnscredential": "DNS credentials",
    "dnsproviders.txtrecord": "TXT records",
    "devices.device": "devices",
    "issuance.certificate": "certificates",
    "issuance.certificateversion": "versions of certificates",
    "issuance.issuance": "attempts",
    "keystore.envelope": "sealed secrets",
    "notices.notice": "notices",
    "notices.webhook": "webhooks",
}


@dataclass(frozen=True)
class Contents:
    """The contents of a backup. `master_keys` has the text of each key that can leave this server.

    `counts` and `columns` are by the label of the table. `elsewhere` has the ids of master keys
    that cannot leave their HSM, and `missing` those that this server does not have.
    """

    made_at: str
    migrations: list[str]
    columns: dict[str, list[str]]
    counts: dict[str, int]
    settings: dict[str, str] = field(repr=False)
    master_keys: dict[str, str] = field(repr=False)
    elsewhere: list[str]
    missing: list[str]

    def as_json(self) -> dict[str, Any]:
        return {"certctrl_backup": VERSION} | asdict(self)

    def table(self) -> str:
        """Return the list for people, without any secret."""
        named = [(what, self.counts.get(label, 0)) for label, what in NAMED.items()]
        other = sum(count for label, count in self.counts.items() if label not in NAMED)
        lines = [f"{count:>12,}  {what}" for what, count in [*named, ("other rows", other)]]
        return "\n".join([*lines, *self._secrets()])

    def _secrets(self) -> list[str]:
        lines = [f"master keys: {', '.join(self.master_keys) or 'none'}"]
        if self.elsewhere:
            lines.append(
                f"master keys that stay in their HSM or service: {', '.join(self.elsewhere)}. "
                "This backup opens nothing of theirs without it."
            )
        if self.missing:
            lines.append(
                f"master keys that this server does not have: {', '.join(self.missing)}. "
                "Nothing opens their secrets."
            )
        return [*lines, f"settings: {', '.join(sorted(self.settings)) or 'none'}"]


def from_json(line: Any) -> Contents:
    """Return the contents that a first line describes. Raise ValueError if it is another file."""
    try:
        if line.pop("certctrl_backup") != VERSION:
            raise ValueError
        return Contents(**line)
    except (AttributeError, KeyError, TypeError):
        raise ValueError from None


def settings_file(contents: Contents) -> str:
    """Return the settings as the text of a `.env`.

    Single quotes keep a value as it is. A line of a `.env` cannot have a line end in it.
    """
    lines = [f"# The settings of the server whose backup was made at {contents.made_at}."]
    for name, value in sorted(contents.settings.items()):
        if "\n" in value:
            lines.append(f"# Put this into a file, and its path into {name}_FILE:")
            lines += [f"# {line}" for line in value.split("\n")]
        else:
            lines.append(f"{name}='{value}'")
    return "\n".join([*lines, ""])
