"""From an event to its requests: who gets it, and one actor with one lane for each endpoint."""
