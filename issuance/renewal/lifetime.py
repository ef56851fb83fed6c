"""Handle certificates that end because their CA ends.

A renewal cannot make them longer. This module decides which renewals are refused for this reason.
It also has the sentences for people.
"""

from datetime import timedelta

from django.db.models import Q

from authorities import pki
from authorities.errors import Refused
from certctrl import clock
from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from issuance.models import Certificate, CertificateVersion, Drill, Issuance, RenewalInfo
from issuance.renewal import schedule
from notices.moments import for_people

GAINS_NOTHING = "renewal_gains_nothing"
APPLES_LONGEST = timedelta(days=825)  # https://support.apple.com/en-us/103769; for private CAs too


def gains_no_time(current: CertificateVersion, chain_pem: str) -> bool:
    """Return whether a renewal with this chain ends no later than the current version."""
    new = pki.facts(chain_pem)
    return schedule.gains_no_time(
        (current.not_before, current.not_after),
        (new.not_before, new.not_after),
        capped=pki.cap_of(chain_pem) is not None,
    )


def refuse_useless(issuance: Issuance, chain_pem: str) -> None:
    """Raise Refused if an automatic renewal gains no time.

    A certificate that a person asked for is stored. So is one that replaces another for a different
    reason than its end.
    """
    certificate = issuance.certificate
    current = issuance.certificate.current
    if not current or issuance.reason != Issuance.Reason.RENEWAL:
        return
    if not gains_no_time(current, chain_pem) or _has_another_reason(certificate, current):
        return
    stays = _(
        "The new certificate for %(domain)s would be valid until %(not_after)s, no "
        "longer than the one in use, which stays.",
        domain=certificate.domain,
        not_after=for_people(pki.facts(chain_pem).not_after),
    )
    told = filter(None, [stays, why_short(chain_pem), remedy(issuance.account.is_private)])
    raise Refused(GAINS_NOTHING, joined(" ", told), permanent=True)


def _has_another_reason(certificate: Certificate, current: CertificateVersion) -> bool:
    key = (certificate.key_type, certificate.key_size)
    has_other_key = pki.key_kind(current.chain_pem) != key
    is_revoked = current.revoke_asked_at is not None
    return is_revoked or has_other_key or _is_replaced_early(current) or _is_in_drill(current)


def _is_replaced_early(current: CertificateVersion) -> bool:
    """Return whether the CA's window is over before a renewal is due by the life alone.

    A CA that is going to revoke sends such a window (RFC 9773, section 4.2).
    """
    info = RenewalInfo.objects.filter(version=current).first()
    now = clock.now()
    ours = schedule.renew_at(current.not_before, current.not_after, None, jitter=1)
    return bool(info and info.window_end and info.window_end <= now < ours)


def _is_in_drill(current: CertificateVersion) -> bool:
    theirs = Q(issuer=current.issuer) | Q(account=current.account_id)
    running = Drill.objects.filter(
        theirs, ended_at=None, stopped_at=None, created_at__gt=current.created_at
    )
    return running.exists()


def why_short(chain_pem: str) -> str:
    """Return the sentence about a certificate that could not be longer.

    Return an empty string when its CA ends later.
    """
    cap = pki.cap_of(chain_pem)
    if not cap:
        return ""
    return _(
        "The certificate could not last longer, because its CA, %(issuer)s, ends at %(ends)s.",
        issuer=cap.issuer,
        ends=for_people(cap.ends),
    )


def remedy(private: bool) -> str:
    """Return what a person must do so that the next certificate is longer."""
    if private:
        return _(
            "Make a new private CA, install its certificate where it must be trusted, "
            "and give the certificate an account of it (acme_account_id)."
        )
    return _(
        "Wait until the CA signs with another certificate, or use another account "
        "(acme_account_id or fallback_account_id)."
    )


def notes(certificate: Certificate) -> list[str]:
    """Return the sentences about the current version's life, for the API."""
    current = certificate.current
    if not current:
        return []
    is_near = pki.may_be_capped(current.chain_pem, current.not_after)
    short = why_short(current.chain_pem) if is_near else ""
    told = [short, remedy(current.account.is_private)] if short else []
    if current.account.is_private and current.not_after - current.not_before > APPLES_LONGEST:
        told.append(
            _(
                "Apple's systems refuse a server certificate of more than %(days)s days, a "
                "private CA's too. Set a shorter validity_seconds where they are to connect.",
                days=APPLES_LONGEST.days,
            )
        )
    return told
