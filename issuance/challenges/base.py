"""The interface of a validation method (RFC 8555, section 8)."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from types import MappingProxyType
from typing import Any, ClassVar, NamedTuple

from authorities.base import AuthorizationResource, ChallengeResource
from authorities.errors import Refused
from certctrl.sentences import sentence as _
from dnsclient.cnames import CnamePath
from issuance.models import Authorization, Certificate, Issuance

# A record that a walk releases on its way is due this much later, because the worker removes it
# when the walk ends. The sweep runs at that moment. So the record of a worker that died stays for
# no longer than the pause between two sweeps.
LEFT_TO_WORKER = timedelta(seconds=1)


class Known(NamedTuple):
    """The facts that the preflight of the same turn saw, so that nobody asks for them again.

    `paths` has the CNAME paths by name. `zones` has the zones that the DNS provider showed, and
    `seen` the names of those that resolvers see, by the name of the TXT record.
    """

    paths: Mapping[str, CnamePath] = MappingProxyType({})
    zones: Mapping[str, str] = MappingProxyType({})
    seen: Mapping[str, str] = MappingProxyType({})


class Judgement(NamedTuple):
    """The meaning of a look for an attempt.

    `what` is the text of the event. `absent` has the ids of what must be presented again. Nothing
    is absent when the challenges can be answered.
    """

    what: str
    absent: Sequence[int] = ()


class Challenge(ABC):
    """A validation method. One object serves all attempts, so it has no state of an attempt.

    `type` is the name of the challenge at the CA and in CAA records (RFC 8657, section 4).
    """

    type: ClassVar[str]
    in_zone: ClassVar[bool] = True  # whether the proof is written into the zone of the name

    def is_for(self, certificate: Certificate) -> bool:
        """Return whether the certificate proves its names by this method."""
        return True

    def serves(self, seen: AuthorizationResource) -> bool:
        """Return whether the method can prove this identifier. Most cannot prove a wildcard."""
        return not seen.wildcard

    def not_offered(self, seen: AuthorizationResource) -> Refused:
        """Return the error for a CA that does not offer this method for the identifier."""
        what = _(
            "The CA offers no %(type)s challenge for %(name)s. Choose another CA.",
            type=self.type,
            name=seen.name,
        )
        return Refused("ca_no_challenge", what, permanent=True)

    def be_usable(self, issuance: Issuance) -> None:  # noqa: B027, most need nothing
        """Raise Wait while the method cannot be used, so that no order is sent for nothing."""

    def look_up(self, issuance: Issuance, known: Known) -> Any:
        """Look up in the network what `prepare` needs, for all names of the attempt together.

        `known` is what the preflight of the same turn saw.
        """
        return None

    @abstractmethod
    def prepare(
        self,
        issuance: Issuance,
        seen: AuthorizationResource,
        offered: ChallengeResource,
        found: Callable[[], Any],
    ) -> Callable[[], dict[str, Any]]:
        """Return the function that notes what `present` must make.

        `found` returns the result of `look_up`, which runs at most once in a turn. Raise Refused
        when something is lacking: a credential, for example. The returned function is called inside
        the fence. It returns more columns of the authorization to write.
        """

    @abstractmethod
    def present(self, issuance: Issuance, pending: Sequence[Authorization]) -> str:
        """Make what the CA will look for, where it is missing. Return the text of the event.

        Raise Wait and Trouble.
        """

    @abstractmethod
    def look(self, pending: Mapping[int, Sequence[Authorization]]) -> Mapping[int, Any]:
        """Look once for many attempts. Return what was seen for each, for `judge`.

        `pending` has the pending authorizations by the id of their attempt.
        """

    @abstractmethod
    def judge(self, issuance: Issuance, seen: Any) -> Judgement:
        """Decide what was seen for one attempt. Raise Wait while it does not show yet."""

    @abstractmethod
    def present_again(self, absent: Sequence[int]) -> None:
        """Mark what is absent, so that `present` makes it again. This is called in the fence."""

    @abstractmethod
    def release(self, issuance: Issuance, at: datetime | None = None) -> None:
        """Have everything removed that no attempt needs, at `at` or now.

        This is called when the attempt no longer needs its challenges. It is called inside a
        transaction, so the removal itself belongs to another turn. A method that leaves its proof
        in place does nothing.
        """
