"""The recipes of docs/recipes, run unchanged with the real server."""
