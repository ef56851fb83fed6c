"""Sign the requests to a CA (RFC 8555, section 6.2).

A request is a flattened JWS (RFC 7515, section 7.2.2), signed with ES256. The library's own class
costs three times the CPU of the signature itself, and it changes some nonces.
"""

import json

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from josepy.json_util import encode_b64jose
from josepy.jwk import JWKEC

ES256 = ec.ECDSA(hashes.SHA256())
SIZE = 32  # bytes of each of the two numbers of a signature (RFC 7518, section 3.4)


def sign(key: JWKEC, payload: bytes, *, nonce: str, url: str, kid: str) -> str:
    """Return the signed request as JSON.

    `kid` is the account URL. It is empty for newAccount, which shows the public key instead.
    """
    signer = {"kid": kid} if kid else {"jwk": key.public_key().to_json()}
    header = json.dumps({"alg": "ES256", "nonce": nonce, "url": url, **signer})
    protected, content = encode_b64jose(header.encode()), encode_b64jose(payload)
    numbers = decode_dss_signature(key.key.sign(f"{protected}.{content}".encode(), ES256))
    signature = b"".join(each.to_bytes(SIZE) for each in numbers)
    return json.dumps(
        {"protected": protected, "payload": content, "signature": encode_b64jose(signature)}
    )
