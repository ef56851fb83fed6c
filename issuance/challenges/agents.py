"""Prove names by the agent of a device: http-01 and tls-alpn-01.

See RFC 8555, section 8.3, RFC 8737, and RFC 8738 for IP addresses. The server writes down what the
device should serve. The device confirms that it serves it. Only then is the challenge answered.
"""

import ipaddress
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, ClassVar

from django.conf import settings

from authorities import errors, pki
from authorities.base import AuthorizationResource, ChallengeResource
from authorities.errors import Refused
from certctrl import clock
from certctrl.sentences import sentence as _
from certctrl.turns import Trouble, Wait
from devices import agentchallenges
from devices.models import AgentChallenge, Device
from issuance.challenges.base import Challenge, Judgement
from issuance.identifiers import is_address
from issuance.models import Authorization, Certificate, Issuance

ACK_WITHIN = 10.0  # seconds for the ack of the device
TTL = int(agentchallenges.TTL.total_seconds())


class ByAgent(Challenge):
    """A challenge that the agent of the certificate's device serves.

    `kind` names the signals, `port` the port that the CA asks.
    """

    in_zone = False
    kind: ClassVar[str]

    def is_for(self, certificate: Certificate) -> bool:
        return certificate.verify_method == self.type

    @property
    @abstractmethod
    def port(self) -> int:
        """Return the port where the agent listens."""

    @abstractmethod
    def ref_of(self, name: str, offered: ChallengeResource) -> dict[str, Any]:
        """Return the `ref` of the start signal, without the challenge_id."""

    def prepare(
        self,
        issuance: Issuance,
        seen: AuthorizationResource,
        offered: ChallengeResource,
        found: Callable[[], Any],
    ) -> Callable[[], dict[str, Any]]:
        """Return the function that writes down what the device will answer."""
        device = issuance.certificate.verify_device
        if not device or device.status != Device.Status.ACTIVE:
            what = _(
                "The device for the %(type)s challenge of %(identifier)s does not exist, "
                "or it was revoked. Choose another verify_device_id.",
                type=self.type,
                identifier=seen.identifier,
            )
            raise Refused("device_revoked", what, permanent=True)
        if not offered.key_authorization:
            what = _(
                "The CA sent a %(type)s challenge without a token for %(identifier)s.",
                type=self.type,
                identifier=seen.identifier,
            )
            raise Trouble(errors.ERROR, what)
        ref = self.ref_of(seen.identifier, offered)
        return lambda: {"agent_challenge": agentchallenges.note(device, self.kind, ref)}

    def present(self, issuance: Issuance, pending: Sequence[Authorization]) -> str:
        """Write the start for the device. The device has not confirmed it yet."""
        agentchallenges.start(ids_of(pending))
        return _(
            "%(verify_device)s was asked to serve %(counted)s",
            verify_device=issuance.certificate.verify_device,
            counted=self.counted(pending),
        )

    def counted(self, rows: Sequence[Any]) -> str:
        if len(rows) == 1:
            return _("1 %(type)s challenge", type=self.type)
        return _("%(count)s %(type)s challenges", count=len(rows), type=self.type)

    def look(
        self, pending: Mapping[int, Sequence[Authorization]]
    ) -> Mapping[int, Sequence[AgentChallenge]]:
        """Read in one query whether the devices have confirmed."""
        ids = {pk: ids_of(rows) for pk, rows in pending.items()}
        everything = {each for some in ids.values() for each in some}
        found = AgentChallenge.objects.select_related("device").in_bulk(everything)
        return {pk: [found[each] for each in some if each in found] for pk, some in ids.items()}

    def judge(self, issuance: Issuance, seen: Sequence[AgentChallenge]) -> Judgement:
        """Raise Refused if the device does not confirm in time. Then the CA is not asked."""
        never_started = [each.pk for each in seen if each.start_ms is None]
        if never_started:
            return Judgement(_("the device was not asked yet"), never_started)
        silent = [each for each in seen if each.acked_at is None]
        if not silent:
            return Judgement(
                _(
                    "%(verify_device)s serves %(counted)s",
                    verify_device=issuance.certificate.verify_device,
                    counted=self.counted(seen),
                )
            )
        device = silent[0].device
        waited = clock.now().timestamp() - (silent[0].start_ms or 0) / 1000
        if waited >= ACK_WITHIN:
            what = _(
                "The device %(device)s did not confirm within %(ack_within)s seconds "
                "that it serves the %(type)s challenge. The CA was not asked. See that "
                "its agent runs, that it has a WebSocket to this server, and that port "
                "%(port)s is free there.",
                device=device,
                ack_within=format(ACK_WITHIN, "g"),
                type=self.type,
                port=self.port,
            )
            raise Refused("device_no_answer", what)
        raise Wait(
            1,
            _(
                "Waiting until %(device)s confirms that it serves %(counted)s.",
                device=device,
                counted=self.counted(silent),
            ),
        )

    def present_again(self, absent: Sequence[int]) -> None:
        agentchallenges.forget(absent)

    def release(self, issuance: Issuance, at: datetime | None = None) -> None:
        """Write the stop for the device. It stops by itself after TTL seconds."""
        if self.is_for(issuance.certificate):
            agentchallenges.stop(
                AgentChallenge.objects.filter(kind=self.kind, authorizations__issuance=issuance)
            )


class Http01(ByAgent):
    """A file below /.well-known/acme-challenge/ on port 80 (RFC 8555, section 8.3)."""

    type = "http-01"
    kind = "http01"

    @property
    def port(self) -> int:
        return int(settings.AGENT_HTTP_PORT)

    def ref_of(self, name: str, offered: ChallengeResource) -> dict[str, Any]:
        return {
            "token": offered.token,
            "key_authorization": offered.key_authorization,
            "listen": {
                "http": {"bind": bind_for(name), "port": self.port},
                "https": {"enabled": False},
            },
            "ttl_seconds": TTL,
            "domains": [name],
        }


class TlsAlpn01(ByAgent):
    """A certificate for the protocol acme-tls/1 on port 443 (RFC 8737)."""

    type = "tls-alpn-01"
    kind = "tlsalpn01"

    @property
    def port(self) -> int:
        return int(settings.AGENT_TLS_PORT)

    def ref_of(self, name: str, offered: ChallengeResource) -> dict[str, Any]:
        certificate_pem, key_pem = pki.acme_tls_certificate(name, offered.key_authorization)
        return {
            "domain": server_name(name),
            "token": offered.token,
            "key_authorization": offered.key_authorization,
            "listen": {"bind": bind_for(name), "port": self.port},
            "certificate": {"cert_pem": certificate_pem, "key_pem": key_pem},
            "ttl_seconds": TTL,
        }


def ids_of(pending: Sequence[Authorization]) -> list[int]:
    return sorted({each.agent_challenge_id for each in pending if each.agent_challenge_id})


def server_name(name: str) -> str:
    """Return the server name that the CA sends: of an address, its name in the reverse zone.

    See RFC 8738, section 6.
    """
    return ipaddress.ip_address(name).reverse_pointer if is_address(name) else name


def bind_for(name: str) -> str:
    """Return the address at which the agent listens."""
    is_six = is_address(name) and ":" in name
    return "::" if is_six else "0.0.0.0"  # noqa: S104
