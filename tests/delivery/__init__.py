"""The pure policy, signatures and the transport."""
