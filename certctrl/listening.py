"""Where the server listens (LISTEN), and the names under which it can be called there."""

import socket

ANYWHERE = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104
DEFAULT = "127.0.0.1"


def host_of(text: str) -> str:
    """Return LISTEN as `bind` needs it: a host name, or an address in its shortest form.

    An IPv6 address has no brackets. Raise ValueError with a sentence.
    """
    host = text.strip() or DEFAULT
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        return _host_name(host, text)
    # A link-local address keeps its zone.
    return socket.getnameinfo(found[0][4], socket.NI_NUMERICHOST)[0]


def _host_name(host: str, text: str) -> str:
    if not host.isascii() or not all(each.isalnum() or each in ".-_" for each in host):
        raise ValueError(
            f"LISTEN is {text!r}. Give only an address or a host name, for example "
            "LISTEN=::1. The setting PORT has the port."
        )
    return host.lower()


def in_url(host: str) -> str:
    """Return the host as it is written in a URL. An IPv6 address gets brackets."""
    return f"[{host.replace('%', '%25')}]" if ":" in host else host


def called(host: str) -> str:
    """Return the address at which this machine calls a server that listens on `host`."""
    return ANYWHERE.get(host, host)


def allowed_hosts(listen: str) -> list[str]:
    """Return the default of ALLOWED_HOSTS.

    The list has localhost and the LISTEN address. A server that listens on all addresses also gets
    the names and addresses of this machine.
    """
    try:
        host = host_of(listen)
    except ValueError:  # the code that binds the port reports it
        return ["localhost", DEFAULT, "[::1]"]
    hosts = [host, *(_of_this_machine() if host in ANYWHERE else [])]
    return list(
        dict.fromkeys(
            ["localhost", DEFAULT, "[::1]", *(in_url(each.partition("%")[0]) for each in hosts)]
        )
    )


def _of_this_machine() -> list[str]:
    """Return the name of this machine, and the addresses at which others reach it."""
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
    """Return the addresses that the routes of the system select for the rest of the world.

    Nothing is sent. The targets are documentation addresses (RFC 5737; RFC 3849).
    """
    found = []
    for family, somewhere in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        try:
            with socket.socket(family, socket.SOCK_DGRAM) as probe:
                probe.connect((somewhere, 9))
                found.append(str(probe.getsockname()[0]))
        except OSError:  # no route for this address family
            continue
    return found
