"""The CAs, as dnsproviders is for DNS: ACME accounts, private CAs, and what is known of each CA."""
