"""Option checks that the models share."""

from __future__ import annotations


def check_positive(model: str, **options: int) -> None:
    """Raise a one-line ValueError unless every option is an integer of 1 or more."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} of {model} must be an integer of 1 or more, not {value}")
