"""What is left of a CA's limits, as the owner of an account sees it."""

from typing import Any

from rest_framework import serializers

from certctrl.api import EpochSeconds
from issuance.models import LimitBucket


class LimitSerializer(serializers.Serializer[Any]):
    """A token bucket of a CA's limit."""

    kind = serializers.ChoiceField(LimitBucket.Kind.choices)
    subject = serializers.CharField(help_text="the account, domain, names or name that is counted")
    capacity = serializers.FloatField(allow_null=True, help_text="tokens; null: nobody knows the CA's limit")
    seconds_for_one = serializers.FloatField(allow_null=True)
    left = serializers.FloatField(allow_null=True, help_text="tokens now; null while it is open and unlimited")
    waiting = serializers.IntegerField(help_text="orders that wait for it")
    next_at = EpochSeconds(help_text="when the next order may have a token")
