"""From an event to its requests, in virtual time."""
