"""How the server is seen."""
