"""Show a CA that an account controls a name (RFC 8555, section 8)."""
