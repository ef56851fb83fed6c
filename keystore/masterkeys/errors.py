"""The errors of master keys.

The operator can fix each of them. Therefore they are Troubles, and a worker tries again.
"""

from certctrl.sentences import sentence as _
from certctrl.turns import Trouble


class MasterKeyProblem(Trouble):
    """The master keys of this server cannot be used. `what` says how to fix them."""

    def __init__(self, what: str) -> None:
        super().__init__("master_keys", what)


class UnknownMasterKey(MasterKeyProblem):
    """No source has a master key of this id."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            _(
                "Master key %(key_id)s is not on this server. Restore it in MASTER_KEYS or "
                "its file.",
                key_id=key_id,
            )
        )
        self.key_id = key_id


class MasterKeyAway(MasterKeyProblem):
    """The HSM or the service that has the key does not answer. The key itself may be well."""

    def __init__(self, what: str) -> None:
        super().__init__(what)
        self.code = "master_key_unreachable"


class WrongMasterKey(MasterKeyProblem):
    """The key of this id does not open the wrap."""

    def __init__(self, key_id: str) -> None:
        super().__init__(
            _(
                "Master key %(key_id)s of this server does not open this secret. Another key "
                "of the same id wrapped it, or its row was altered. Restore that key, or the "
                "row from a backup.",
                key_id=key_id,
            )
        )
