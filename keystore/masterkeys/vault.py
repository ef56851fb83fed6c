"""Master keys in the transit engine of HashiCorp Vault, or of OpenBao.

A wrap is Vault's text `vault:v1:…`, which names the version of the key. The context is sent as
`associated_data`, which keys of the type aes256-gcm96 authenticate. The API is described in
https://developer.hashicorp.com/vault/api-docs/secret/transit.
"""

import base64
import re
from binascii import Error as BadBase64
from typing import Any

import requests
from django.conf import settings
from django.views.decorators.debug import sensitive_variables

from certctrl import outgoing
from certctrl.environment import Environment
from certctrl.lanes import Lane
from certctrl.sentences import joined
from certctrl.sentences import sentence as _
from keystore.masterkeys.elsewhere import KeyElsewhere
from keystore.masterkeys.errors import MasterKeyAway, MasterKeyProblem, WrongMasterKey

WHERE = re.compile(r"vault:(?P<mount>[\w./-]+)/(?P<name>[\w.-]+)")
TYPE = "aes256-gcm96"
# Vault says these when the key does not open the ciphertext. All other errors have other causes.
WRONG = ("message authentication failed", "invalid ciphertext", "unable to decrypt")


class VaultKey(KeyElsewhere):
    lane = Lane("vault", "Vault")

    def __init__(self, key_id: str, where: str, mount: str, name: str) -> None:
        super().__init__(key_id, where)
        self.mount = mount
        self.name = name
        self._is_checked = False

    @sensitive_variables()
    def _wrap(self, data_key: bytes, context: bytes) -> bytes:
        self._check()
        body = {"plaintext": _b64(data_key), "associated_data": _b64(context)}
        wrapped = self._call("POST", "encrypt", body).get("ciphertext")
        if not isinstance(wrapped, str) or not wrapped.startswith("vault:"):
            raise MasterKeyProblem(_("Vault's response has no ciphertext. Check VAULT_ADDR."))
        return wrapped.encode()

    @sensitive_variables()
    def _unwrap(self, wrapped: bytes, context: bytes) -> bytes:
        body = {"ciphertext": wrapped.decode("ascii", "replace"), "associated_data": _b64(context)}
        try:
            return base64.b64decode(self._call("POST", "decrypt", body)["plaintext"])
        except (KeyError, TypeError, BadBase64):
            raise MasterKeyProblem(
                _("Vault's response has no plaintext. Check VAULT_ADDR.")
            ) from None

    def _check(self) -> None:
        """Refuse a key of another type, and one that can be exported. Vault is asked once.

        Other types ignore the associated data, so a wrap would open in another row.
        """
        if self._is_checked:
            return
        found = self._call("GET", "keys")
        if found.get("type") != TYPE:
            raise MasterKeyProblem(
                _(
                    "Vault's key %(name)s is not of the type %(type)s. Make one of that type.",
                    name=self.name,
                    type=TYPE,
                )
            )
        if found.get("exportable") or found.get("allow_plaintext_backup"):
            raise MasterKeyProblem(
                _(
                    "Vault's key %(name)s can leave Vault. Make another, without exportable and "
                    "allow_plaintext_backup.",
                    name=self.name,
                )
            )
        self._is_checked = True

    @sensitive_variables()
    def _call(self, method: str, what: str, body: Any = None) -> dict[str, Any]:
        url = f"{settings.VAULT_ADDR.rstrip('/')}/v1/{self.mount}/{what}/{self.name}"
        # Vault Agent replaces the file of VAULT_TOKEN_FILE, so it is read each time.
        token = Environment.ENVIRON.get("VAULT_TOKEN", settings.VAULT_TOKEN)
        headers = {"X-Vault-Token": token, "X-Vault-Request": "true"}
        try:
            response = outgoing.session().request(
                method, url, json=body, headers=headers, allow_redirects=False
            )
        except requests.RequestException as exc:
            raise MasterKeyAway(_("Vault cannot be reached. %(exc)s", exc=exc)) from None
        errors, data = _read(response)
        if response.status_code == 200 and data is not None:
            return data
        if response.status_code == 400 and any(each in errors for each in WRONG):
            raise WrongMasterKey(self.id)
        # 429: a standby; 5xx: sealed, or not initialized
        is_away = response.status_code == 429 or response.status_code >= 500
        problem = MasterKeyAway if is_away else MasterKeyProblem
        what = _(
            "Vault answered %(status_code)s for its key %(name)s. Check VAULT_ADDR, VAULT_TOKEN "
            "and its policy, and that Vault is unsealed.",
            status_code=response.status_code,
            name=self.name,
        )
        raise problem(joined(" ", [what, errors]) if errors else what)


def key(key_id: str, where: str, which: str) -> VaultKey:
    match = WHERE.fullmatch(where)
    if not match:
        raise MasterKeyProblem(
            _("%(which)s is not a key of Vault. Write vault:transit/NAME.", which=which)
        )
    if not settings.VAULT_ADDR:
        raise MasterKeyProblem(
            _(
                "%(which)s is in Vault, and VAULT_ADDR is empty. Set it, for example to "
                "https://vault.example.com:8200.",
                which=which,
            )
        )
    return VaultKey(key_id, where, match["mount"], match["name"])


def _b64(raw: bytes) -> str:
    return base64.b64encode(raw).decode()


def _read(response: requests.Response) -> tuple[str, dict[str, Any] | None]:
    """Return the errors as a text, and the data of a response."""
    try:
        content = response.json()
        data = content.get("data")
        errors = "; ".join(map(str, content.get("errors") or ()))
    except (ValueError, AttributeError):
        return "", None
    return errors, data if isinstance(data, dict) else None
