"""Saved views: the filters of a list, under a name."""

from urllib.parse import parse_qsl, urlencode

from django.db import transaction

from accounts import quotas
from accounts.models import SavedView, User
from certctrl.errors import Invalid, QuotaExceeded
from certctrl.sentences import sentence as _

LONGEST_QUERY = 1000


def save(owner: User, name: str, query: str) -> SavedView:
    """Save the filters under this name, in place of those that had the name before.

    `query` is the query of an address. Raise Invalid and QuotaExceeded.
    """
    name = " ".join(name.split())
    if not name or len(name) > 64 or not name.isprintable():
        raise Invalid(_("A view needs a name of at most 64 characters. Type one."), field="name")
    pairs = [pair for pair in parse_qsl(query.removeprefix("?"))[:50] if pair[0] != "after"]
    query = urlencode(pairs)
    if len(query) > LONGEST_QUERY or "%00" in query:
        raise Invalid(_("These filters are too long to be saved. Use fewer."), field="query")
    with transaction.atomic():
        quotas.lock(owner.pk)
        view, _is_new = SavedView.objects.update_or_create(
            owner=owner, name=name, defaults={"query": query}
        )
        if owner.saved_views.count() > SavedView.MOST:
            raise QuotaExceeded(
                _(
                    "You have %(most)s saved views, which are the most. Delete one first.",
                    most=SavedView.MOST,
                )
            )
    return view
