"""The task of the keystore, which the admin starts after it made a master key."""

import structlog
from celery import shared_task

from accounts.models import User
from keystore import rotation
from keystore.masterkeys import MasterKeyProblem

logger = structlog.get_logger()


@shared_task(name="keystore.finish_rotation")
def finish_rotation(user_id: int) -> None:
    """Wrap every data key with the current master key, for the user who rotates."""
    actor = User.objects.get(pk=user_id).email
    try:
        outcome = rotation.finish(actor)
    except MasterKeyProblem as problem:
        logger.error("master_key.not_rotated", why=problem.what)
    else:
        logger.info("master_key.rotated", wraps=outcome.moved, failed=len(outcome.stuck))
