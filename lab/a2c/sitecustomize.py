"""Changes acme2certifier. Its interpreter imports this file at the start, through PYTHONPATH.

dnspython's resolver uses the lab's port. acme2certifier has no setting for a port other than 53.

A subjectAltName is critical when the subject is empty. acme2certifier has no setting for that.

The worker process is tied to its parent, so that it cannot outlive a killed parent.
"""

import ctypes
import os
import signal
import sys

PR_SET_PDEATHSIG = 1


def use_lab_port(port: int) -> None:
    """Make every new resolver ask this port."""
    import dns.resolver

    reset = dns.resolver.BaseResolver.reset

    def reset_to_lab_port(self: dns.resolver.BaseResolver) -> None:
        reset(self)
        self.port = port

    dns.resolver.BaseResolver.reset = reset_to_lab_port  # type: ignore[method-assign]


def make_names_critical() -> None:
    """Follow RFC 5280, section 4.2.1.6, in every certificate that is signed from now on.

    Java rejects certificates that do not follow it.
    """
    from cryptography import x509

    add_extension = x509.CertificateBuilder.add_extension

    def add_names_as_critical(
        self: x509.CertificateBuilder, extval: x509.ExtensionType, critical: bool
    ) -> x509.CertificateBuilder:
        names_all = isinstance(extval, x509.SubjectAlternativeName) and not list(
            self._subject_name or ()
        )
        return add_extension(self, extval, critical or names_all)

    x509.CertificateBuilder.add_extension = add_names_as_critical  # type: ignore[method-assign]


if sys.platform == "linux":
    libc = ctypes.CDLL(None)
    os.register_at_fork(after_in_child=lambda: libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL))
if "LAB_DNS_PORT" in os.environ:
    make_names_critical()
    use_lab_port(int(os.environ["LAB_DNS_PORT"]))
