"""What runs next to delivery."""
