"""When a certificate is renewed, when a failed attempt is tried again, and at which account."""
