"""Where the server listens: LISTEN in every spelling, and the names under which it can be called there."""

import socket

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
DEFAULT = "127.0.0.1"


def host_of(text: str) -> str:
    """LISTEN as `bind` takes it: an address without brackets in its shortest spelling, or a host name.

    Raises ValueError with a sentence.
    """
    host = text.strip() or DEFAULT
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return _host_name(host, text)
    return socket.getnameinfo(found[0][4], socket.NI_NUMERICHOST)[
        0
    ]  # with the zone of a link-local one


def _host_name(host: str, text: str) -> str:
    if not host.isascii() or not all(each.isalnum() or each in ".-_" for each in host):
        raise ValueError(
            f"LISTEN is {text!r}: give an address or a host name alone, for example LISTEN=::1. The port is PORT."
        )
    return host.lower()


def in_url(host: str) -> str:
    """The host as a URL has it: an IPv6 address in brackets."""
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def called(host: str) -> str:
    """Where a server that listens on this host is called from this machine."""
    return ANYWHERE.get(host, host)


def allowed_hosts(listen: str) -> list[str]:
    """The names under which it may be called, where ALLOWED_HOSTS does not say: this machine's own, where it listens
    on all of its addresses, and the one that it listens on."""
    try:
        host = host_of(listen)
    except ValueError:  # whoever listens says it
        return ["localhost", DEFAULT, "[::1]"]
    hosts = [host, *(_of_this_machine() if host in ANYWHERE else [])]
    return list(
        dict.fromkeys(
            ["localhost", DEFAULT, "[::1]", *(in_url(each.partition("%")[0]) for each in hosts)]
        )
    )


def _of_this_machine() -> list[str]:
    """Its name, and the addresses that others reach it at."""
    name = socket.gethostname().lower()
    return [name, *_addresses_of(name), *_outward_addresses()]


def _addresses_of(name: str) -> list[str]:
    try:
        return [
            str(found[4][0]) for found in socket.getaddrinfo(name, None, type=socket.SOCK_STREAM)
        ]
    except (OSError, UnicodeError):
        return []


def _outward_addresses() -> list[str]:
    """Those that the system's routes choose for the rest of the world; nothing is sent (RFC 5737; RFC 3849)."""
    found = []
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((somewhere, 9))
                found.append(str(probe.getsockname()[0]))
        except OSError:  # no route of that family
            continue
    return found
