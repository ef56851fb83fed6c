"""An attacker with a dump of the database and the master keys, without code of the server.

    python dump.py DUMP KEYS

DUMP is the output of `manage.py dumpdata`, KEYS the file of MASTER_KEYS_PATH. It tries each wrap
and each data key on each certificate key, also on those of other rows. It writes one JSON object:
for each certificate key its policy and the envelopes whose wraps opened it, by their UUIDs.
"""

import base64
import json
import pathlib
import sys
from typing import Any

from nacl.bindings import crypto_aead_aes256gcm_decrypt
from nacl.exceptions import CryptoError


def rows(dump: list[dict[str, Any]], model: str) -> dict[int, dict[str, Any]]:
    return {each["pk"]: each["fields"] for each in dump if each["model"] == model}


def opened(sealed: bytes, aad: bytes | None, nonce: bytes, key: bytes) -> bytes | None:
    try:
        return bytes(crypto_aead_aes256gcm_decrypt(sealed, aad, nonce, key))
    except (CryptoError, ValueError, TypeError):
        return None


def data_keys(dump: list[dict[str, Any]], keys: dict[str, bytes]) -> dict[int, set[bytes]]:
    """Return the data keys that each wrap yields, tried with the context of every envelope."""
    envelopes = rows(dump, "keystore.envelope")
    found: dict[int, set[bytes]] = {}
    for pk, wrap in rows(dump, "keystore.keywrap").items():
        sealed = base64.b64decode(wrap["wrapped_dek"])
        for envelope_pk, each in envelopes.items():
            bound = f"certctrl/1|{each['uuid']}|{each['purpose']}|{each['owner']}"
            for key_id, key in keys.items():
                aad = f"{bound}|{key_id}".encode()
                data_key = opened(sealed[12:], aad, sealed[:12], key)
                if data_key:
                    assert envelope_pk == wrap["envelope"], f"wrap {pk} opens for another row"
                    found.setdefault(envelope_pk, set()).add(data_key)
    return found


def main(dump_path: str, keys_path: str) -> None:
    dump = json.loads(pathlib.Path(dump_path).read_text())
    lines = pathlib.Path(keys_path).read_text().split()
    keys = {line.partition(":")[0]: base64.b64decode(line.partition(":")[2]) for line in lines}
    envelopes = rows(dump, "keystore.envelope")
    found = data_keys(dump, keys)
    result = {}
    for each in envelopes.values():
        if each["purpose"] == "certificate_key":
            sealed, nonce = base64.b64decode(each["ciphertext"]), base64.b64decode(each["nonce"])
            by = {
                envelopes[pk]["uuid"]
                for pk, some in found.items()
                for data_key in some
                if opened(sealed, None, nonce, data_key)
            }
            result[each["uuid"]] = {"policy": each["policy"], "opened_by": sorted(by)}
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
