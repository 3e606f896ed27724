"""Delivery: the pure policy, and the only place that opens a connection out."""
