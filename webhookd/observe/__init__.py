"""How the server is seen: logs, counts, the last attempts, stalls of the loop, and what the service manager is told."""
