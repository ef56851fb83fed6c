"""Asks the DNS. It knows no rows of ours and no DNS providers."""
