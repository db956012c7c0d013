"""Option checks that the models share: each raises a one-line ValueError."""

from __future__ import annotations

from collections.abc import Sequence


def check_positive(model: str, **options: int) -> None:
    """Refuse an option that is not an integer of 1 or more."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} of {model} must be an integer of 1 or more, not {value}")


def check_divides(model: str, **options: int) -> None:
    """Refuse a first option that does not divide the second."""
    (divisor_name, divisor), (name, value) = options.items()
    if value % divisor:
        raise ValueError(
            f"{divisor_name} of {model} must divide {name}: {divisor} does not divide {value}"
        )


def check_choice(model: str, name: str, value: str, known: Sequence[str]) -> None:
    """Refuse a value that is not among the known ones."""
    if value not in known:
        raise ValueError(f"{name} of {model} must be {' or '.join(known)}, not {value}")


def check_probability(model: str, **options: float) -> None:
    """Refuse an option that is not a number from 0 to below 1."""
    for name, value in options.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1:
            raise ValueError(f"{name} of {model} must be from 0 to below 1, not {value}")
