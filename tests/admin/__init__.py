"""The admin API over real HTTP."""
