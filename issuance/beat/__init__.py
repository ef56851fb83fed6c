"""What the clock starts: the sweep, the scan for renewals, warnings, pruning."""
