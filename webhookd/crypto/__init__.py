"""Encryption of secrets at rest: the vault, and the source of its master key."""
