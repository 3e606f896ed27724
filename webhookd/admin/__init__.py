"""The admin API over HTTP, and the guard that serves it."""
