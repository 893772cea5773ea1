"""Who is alive, what is wrong, and what to do about it."""
