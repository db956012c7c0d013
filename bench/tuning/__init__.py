"""The search for settings: its space, its trials, and what is written down."""
