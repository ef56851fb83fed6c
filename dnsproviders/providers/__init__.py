"""One file for each DNS vendor. They do not know each other."""
