"""What webhookd does in a second, in how long and in how much memory: `python -m tests.bench`.

Every figure stands beside a yardstick that was measured around it, since a shared machine wanders by a factor of two.
"""
