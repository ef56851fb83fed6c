"""Limits on the device code grant."""

from typing import Any

from rest_framework.request import Request

from accounts import audit
from certctrl.api import CountedThrottle


class DeviceStartThrottle(CountedThrottle):
    """A limit on grants that are started from one network. Nobody is logged in yet."""

    scope = "device_start"
    rate = "60/min"

    def get_cache_key(self, request: Request, view: Any) -> str:
        ip = audit.ip_of(request)
        return f"throttle_{self.scope}_{audit.network_of(ip) if ip else ''}"


class DeviceVerifyThrottle(CountedThrottle):
    """A limit on the user codes that one person may try."""

    scope = "device_verify"
    rate = "60/min"
