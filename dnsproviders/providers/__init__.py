"""One file for each DNS provider. They do not import each other."""
