"""The vault and its key."""
