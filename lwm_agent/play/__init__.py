"""A window in which a person and an agent play with the same things."""
