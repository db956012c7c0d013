"""What the figures show, drawn by matplotlib in one style."""
