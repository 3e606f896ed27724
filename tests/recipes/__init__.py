"""The recipes of docs/recipes, run as they stand there, each with the real server."""
