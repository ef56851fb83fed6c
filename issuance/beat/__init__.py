"""The work that the clock starts: the sweep, the scan for renewals, warnings, pruning."""

from issuance.beat import pruning, renewals, rollouts, sweep, warnings

__all__ = ["pruning", "renewals", "rollouts", "sweep", "warnings"]
