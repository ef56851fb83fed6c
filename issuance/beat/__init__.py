"""The work that the clock starts: the sweep, the scan for renewals, devices, warnings, pruning."""

from issuance.beat import following, pruning, renewals, rollouts, sweep, warnings

__all__ = ["following", "pruning", "renewals", "rollouts", "sweep", "warnings"]
