"""Master keys in the setting MASTER_KEYS: `2:<base64 of 32 bytes>,1:<...>`, the first one wraps."""

from django.conf import settings

from keystore.masterkeys.aes import AESKey, parse


class SettingsKeys:
    """A new key is put first by the operator, who then restarts the server."""

    def keys(self) -> dict[str, AESKey]:
        return parse(settings.MASTER_KEYS, "MASTER_KEYS")

    def read_again(self) -> None:
        """Settings do not change while a process lives."""
