"""Create private CAs, and sign with them."""

from authorities.privateca.authority import (
    DEFAULT_VALIDITY,
    PrivateAuthority,
    common_name_of,
    key_usage_of,
    sign,
)
from authorities.privateca.creation import (
    CURVE_NAMES,
    CURVE_SIZES,
    DEFAULT_KEY_USAGE,
    MAX_CA_DAYS,
    MAX_PATH_LENGTH,
    create_private_ca,
    self_signed,
)

__all__ = [
    "CURVE_NAMES",
    "CURVE_SIZES",
    "DEFAULT_KEY_USAGE",
    "DEFAULT_VALIDITY",
    "MAX_CA_DAYS",
    "MAX_PATH_LENGTH",
    "PrivateAuthority",
    "common_name_of",
    "create_private_ca",
    "key_usage_of",
    "self_signed",
    "sign",
]
