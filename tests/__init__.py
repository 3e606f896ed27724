"""The tests of webhookd: each one pins a behaviour that the server promises."""
