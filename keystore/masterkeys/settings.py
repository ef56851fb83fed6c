"""Master keys in the setting MASTER_KEYS: `2:<base64 of 32 bytes>,1:<...>`. The first key wraps."""

from django.conf import settings

from keystore.masterkeys.aes import AESKey, parse


class SettingsKeys:
    """The keys of MASTER_KEYS. The operator puts a new key first, and then restarts the server."""

    def keys(self) -> dict[str, AESKey]:
        return parse(settings.MASTER_KEYS, "MASTER_KEYS")

    def read_again(self) -> None:
        """Do nothing, because settings do not change while a process runs."""
