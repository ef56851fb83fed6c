"""The six steps of an attempt. Each looks at what is already true, and does what is missing."""

from issuance.workflow.steps.download import download
from issuance.workflow.steps.finalize import finalize
from issuance.workflow.steps.order import LIMIT, order
from issuance.workflow.steps.present import present
from issuance.workflow.steps.propagate import judge, propagate
from issuance.workflow.steps.validate import validate

__all__ = ["LIMIT", "download", "finalize", "judge", "order", "present", "propagate", "validate"]
