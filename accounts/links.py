"""Sign-in links. Each works once, and for an hour."""

import re

from django.contrib.auth.tokens import PasswordResetTokenGenerator

from accounts.models import User
from certctrl import errors
from certctrl.sentences import sentence as _

LINK_AGE = 3600  # seconds
TOKEN = re.compile(r"([1-9][0-9]{0,17})\.([0-9a-z]{1,13})-([0-9a-f]+)", re.ASCII)


class LinkTokens(PasswordResetTokenGenerator):
    """Makes tokens that end with the next sign-in, and with a change of the password."""

    key_salt = "accounts.links"


TOKENS = LinkTokens()


def token_for(user: User) -> str:
    """Return the token of a new sign-in link. It belongs into the query, which is not logged."""
    return f"{user.pk}.{TOKENS.make_token(user)}"


def user_of(token: str) -> User:
    """Return the user that a sign-in link is for. Raise Unauthorized for a link that is over."""
    parts = TOKEN.fullmatch(token)
    user = User.objects.filter(pk=int(parts[1]), is_active=True).first() if parts else None
    if not parts or not user or not TOKENS.check_token(user, f"{parts[2]}-{parts[3]}"):
        raise over()
    age = TOKENS._num_seconds(TOKENS._now()) - int(parts[2], 36)
    if not 0 <= age <= LINK_AGE:
        raise over()
    return user


def over() -> errors.Unauthorized:
    return errors.Unauthorized(
        _(
            "This sign-in link was used, it is older than an hour, or you have signed in "
            "since. Sign in with the password."
        )
    )
