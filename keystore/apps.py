from typing import Any

from django.apps import AppConfig
from django.conf import settings
from django.core import checks


class KeystoreConfig(AppConfig):
    name = "keystore"

    def ready(self) -> None:
        checks.register(master_keys_are_usable)


def master_keys_are_usable(**kwargs: Any) -> list[checks.CheckMessage]:
    """Check the master keys at the start, before the first secret needs them.

    A missing file is no error here, because `make run` or the operator may create it later.
    """
    from keystore import masterkeys

    file = masterkeys.file_keys()
    if file and not file.path.exists() and not settings.MASTER_KEYS:
        return []
    try:
        masterkeys.current()
    except masterkeys.MasterKeyProblem as problem:
        return [checks.Error(problem.what, id="keystore.E001")]
    return []
