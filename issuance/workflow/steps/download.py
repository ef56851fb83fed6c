"""The last step: fetch the chain, check it, and store it."""

from typing import Any

from django.db.models import Exists, OuterRef, QuerySet

from authorities import chains, clients, pki
from authorities.errors import Refused
from certctrl import clock
from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from certctrl.statements import Parameter, insert, select, update
from issuance import notify, rollout, wraps
from issuance.challenges import delegation
from issuance.models import Certificate, CertificateVersion, Deployment, Issuance
from issuance.renewal import ari, lifetime, retry
from issuance.workflow.outcome import Done
from issuance.workflow.steps.finalize import certificate_url_of
from issuance.workflow.steps.reorder import order_again_once
from keystore.models import Envelope

USED = _("the CA returned an order that was used before")


def download(issuance: Issuance) -> Done:
    """Fetch the chain, check it against CSR and names, and store the version.

    A chain from staging is thrown away. A chain for another key makes the attempt order again,
    once. If the attempt has not sent its CSR, an earlier attempt used the order, or a server that
    was lost sent the CSR after the backup. In the second case the chain is for this CSR. Raise
    Refused for a wrong chain, and for a renewal that gains no time.
    """
    client = clients.client_for(issuance.account)
    preferred = issuance.certificate.preferred_chain
    if not issuance.certificate_url:
        url = certificate_url_of(issuance, client.read_order(issuance.order_url))
        issuance.write(certificate_url=url)
    chain_pem = client.download(
        issuance.certificate_url,
        csr_pem=issuance.csr_pem,
        validity_seconds=issuance.validity_seconds,
        preferred_chain=preferred,
    )
    try:
        chain = pki.check_chain(chain_pem, issuance.csr_pem, issuance.certificate.names)
    except pki.BadChain as bad:
        if not issuance.csr_sent_at:
            return order_again_once(issuance, USED)
        if isinstance(bad, pki.WrongKey):
            another = _("the CA's certificate is for a key of another request")
            return order_again_once(issuance, another)
        raise Refused(
            "ca_bad_certificate",
            _(
                "The CA's certificate for %(domain)s is wrong: %(bad)s",
                domain=issuance.certificate.domain,
                bad=bad,
            ),
        ) from None
    if not issuance.csr_sent_at and _is_stored(issuance, chain):
        return order_again_once(issuance, USED)
    if issuance.proves:
        return Done(
            _("staging issued a test certificate, which is discarded; production is next"),
            write=lambda: retry.note_proof(issuance),
        )
    lifetime.refuse_useless(issuance, chain.pem)
    what = joined(
        "",
        [
            _("the certificate is stored"),
            *filter(None, (chains.taken(chain.pem, preferred), chains.remarks(chain))),
        ],
    )
    if short := lifetime.why_short(chain.pem):
        what = joined(". ", [what, short])
    return Done(what, write=lambda: _store_version(issuance, chain))


def _is_stored(issuance: Issuance, chain: pki.Chain) -> bool:
    versions = CertificateVersion.objects.filter(certificate=issuance.certificate_id)
    return versions.filter(fingerprint=chain.facts.fingerprint).exists()


def _store_version(issuance: Issuance, chain: pki.Chain) -> None:
    facts = chain.facts
    assert issuance.key_id, "the key was sealed in the first step"
    version = insert(
        CertificateVersion(
            certificate=issuance.certificate,
            issuance=issuance,
            account=issuance.account,
            serial=facts.serial,
            not_before=facts.not_before,
            not_after=facts.not_after,
            fingerprint=facts.fingerprint,
            issuer=facts.issuer,
            ari_id=facts.ari_id,
            chain_pem=chain.pem,
            added_names=list(chain.added),
            key_id=issuance.key_id,
        )
    )
    # Read it again under a lock, because a person may have changed it since the turn began.
    [certificate] = _locked(pk=issuance.certificate_id)
    ari.begin(version)
    notify.renewed(certificate, version)
    renew_at = ari.renew_at(version, certificate.renew_days_before)
    certificate.current = version
    if _takes_new_key(certificate, issuance, certificate.is_assigned):
        renew_at = clock.now()
    _note_version(
        pk=certificate.pk,
        current=version.pk,
        expires_at=facts.not_after,
        renew_at=renew_at if certificate.renews_itself else None,
        verified=certificate.verified
        or bool(delegation.only_target(certificate, issuance.credential)),
        updated_at=clock.now(),
    )


def _takes_new_key(certificate: Certificate, issuance: Issuance, is_assigned: bool) -> bool:
    """Wrap the new key for the devices, and offer the version to them.

    Return whether this takes another key. It does when a recipient came after a key was sealed
    that the server cannot open.
    """
    if not is_assigned:
        assert issuance.key, "the key was sealed in the first step"
        for_devices = Envelope.Policy.DEVICE_REQUIRED
        return issuance.key.policy == for_devices != certificate.key_policy
    takes_new_key = wraps.fit_or_wait(certificate, is_retried=True)
    rollout.begin(certificate)
    return takes_new_key


@select
def _locked(pk: Parameter) -> QuerySet[Certificate]:
    is_assigned = Exists(Deployment.objects.filter(certificate=OuterRef("pk")))
    return Certificate.objects.select_for_update().annotate(is_assigned=is_assigned).filter(pk=pk)


@update
def _note_version(
    pk: Parameter,
    current: Parameter,
    expires_at: Parameter,
    renew_at: Parameter,
    verified: Parameter,
    updated_at: Parameter,
) -> tuple[QuerySet[Certificate], dict[str, Any]]:
    columns = {
        "current": current,
        "expires_at": expires_at,
        "renew_at": renew_at,
        "failures": 0,
        "failing_since": None,
        "last_failure": "",
        "proved_at": None,
        "verified": verified,
        "updated_at": updated_at,
    }
    return Certificate.objects.filter(pk=pk), columns
