"""What runs next to delivery: replays, test deliveries, backups, the rotation of the master key, saved statistics."""
