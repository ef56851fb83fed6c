"""CAs: ACME accounts, private CAs, and the known facts about each CA."""
