"""Measure webhookd's throughput, latency and memory: `python -m tests.bench`.

Every figure is compared with a yardstick that is measured before and after it, because the speed of a shared machine
varies by a factor of two.
"""
