"""A durable, ordered, signed webhook server: one process and one file."""
