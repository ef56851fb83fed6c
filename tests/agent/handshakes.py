"""The serial number of the certificate that a port on loopback serves."""

from cryptography import x509

from certctrl_agent import handshake
from certctrl_agent.errors import CheckError
from certctrl_agent.plan import TlsCheck


def served_by(port: int, name: str = "www.example.com") -> str:
    """Return the serial number in hex, or "" when nothing is served."""
    check = TlsCheck("127.0.0.1", port, name, "", 0)
    try:
        der = handshake.served(check, handshake.any_kind())
    except CheckError:
        return ""
    return f"{x509.load_der_x509_certificate(der).serial_number:x}"
