"""What was said to a CA and back, kept when debugging is on, without secrets."""
