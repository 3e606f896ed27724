"""How input is read, and what every part uses."""
