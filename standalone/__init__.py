"""`make run`: the embedded server, its Redis, its administrator and its lab."""
