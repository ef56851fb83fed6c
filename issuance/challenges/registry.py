"""Which validation methods there are, and which one a certificate uses."""

from datetime import datetime

from authorities.base import AuthorizationResource, ChallengeResource
from issuance.challenges.agents import Http01, TlsAlpn01
from issuance.challenges.base import Challenge
from issuance.challenges.dns01 import Dns01
from issuance.models import Certificate, Issuance

# The first that is for a certificate proves its names. So the default comes last.
CHALLENGES: list[Challenge] = [Http01(), TlsAlpn01(), Dns01()]


def of(challenge_type: str) -> Challenge:
    """Return the method with this type. Raise KeyError when there is none."""
    return {each.type: each for each in CHALLENGES}[challenge_type]


def for_certificate(certificate: Certificate) -> Challenge:
    """Return the method by which the certificate proves its names."""
    return next(each for each in CHALLENGES if each.is_for(certificate))


def is_in_zone(challenge_type: str | None) -> bool:
    """Return whether the proof of this type, or of the default, is written into the zone."""
    return of(challenge_type).in_zone if challenge_type else CHALLENGES[-1].in_zone


def offered(challenge: Challenge, seen: AuthorizationResource) -> ChallengeResource:
    """Return the challenge that the CA offers for this method. Raise Refused when it has none."""
    if not seen.challenge or not challenge.serves(seen):
        raise challenge.not_offered(seen)
    return seen.challenge


def release(issuance: Issuance, at: datetime | None = None) -> None:
    """Have everything removed, at `at` or now, that was made for challenges of the attempt.

    Call it inside the transaction after which the attempt no longer needs its challenges.
    """
    for challenge in CHALLENGES:
        challenge.release(issuance, at)
