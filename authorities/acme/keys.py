"""Account keys (ECDSA P-256), and the HMAC keys of external account bindings."""

import re

from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.json_util import encode_b64jose
from josepy.jwk import JWKEC
from josepy.util import ComparableECKey


def new_account_key() -> bytes:
    """Return a new account key: ECDSA P-256 as PKCS#8 DER."""
    return ec.generate_private_key(ec.SECP256R1()).private_bytes(
        serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )


def thumbprint(key: bytes) -> str:
    """Return the RFC 7638 thumbprint of an account key, base64url."""
    return thumbprint_of(jwk_of(key))


HMAC_KEY = re.compile(r"[A-Za-z0-9_-]+")
TO_BASE64URL = str.maketrans("+/", "-_")


def hmac_key_of(text: str) -> str:
    """Return the HMAC key of an external account binding as base64url without padding.

    Standard base64 is accepted too, because some CAs show it. Line ends are removed, because people
    copy them. Raise ValueError for any other text.
    """
    key = "".join(text.split()).rstrip("=").translate(TO_BASE64URL)
    if not HMAC_KEY.fullmatch(key) or len(key) % 4 == 1:
        raise ValueError("neither base64url nor base64")
    return key


def thumbprint_of(jwk: JWKEC) -> str:
    """Return the RFC 7638 thumbprint of a JWK, base64url."""
    return encode_b64jose(jwk.thumbprint(hash_function=hashes.SHA256))


def jwk_of(key: bytes) -> JWKEC:
    """Load an account key, PKCS#8 DER or PEM, as a JWK that the library can sign with.

    Raise ValueError when the key is not an elliptic curve key.
    """
    load = (
        serialization.load_pem_private_key
        if key.startswith(b"-----")
        else serialization.load_der_private_key
    )
    private = load(key, None)
    if not isinstance(private, ec.EllipticCurvePrivateKey):
        raise ValueError("account keys are ECDSA")
    return JWKEC(key=ComparableECKey(private))
