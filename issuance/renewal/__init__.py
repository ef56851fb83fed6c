"""Decide when, and at which account, a certificate is renewed or tried again."""
