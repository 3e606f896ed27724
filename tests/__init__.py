"""The belts: what the server promises, pinned."""
