"""Suggestions of the nearest valid choice."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from bench.errors import RunsFailedError, UserError, suggestion

WORDS = st.text("abcdefgh_", min_size=1, max_size=8)


def test_the_nearest_choice_is_named_first() -> None:
    text = suggestion("adamv", ["sgd", "adamw", "muon"])
    assert text == "did you mean adamw? choices: adamw, muon, sgd"


def test_nothing_near_gives_the_choices_alone() -> None:
    assert suggestion("zzzz", ["sgd", "adamw"]) == "choices: adamw, sgd"


def test_no_choices_at_all() -> None:
    assert suggestion("anything", []) == "choices: none"


def test_choices_may_be_any_iterable_and_repeat() -> None:
    assert suggestion("zzzz", iter(["b", "a", "b"])) == "choices: a, b"


@settings(max_examples=50, deadline=None)
@given(WORDS, st.lists(WORDS, max_size=5))
def test_one_line_with_every_choice(word: str, choices: list[str]) -> None:
    text = suggestion(word, choices)
    assert "\n" not in text
    assert set(text.partition("choices: ")[2].split(", ")) == (set(choices) or {"none"})
    if word in choices:
        assert text.startswith(f"did you mean {word}?")


def test_the_two_errors_are_apart() -> None:
    # The command line gives them different exit statuses.
    assert not issubclass(UserError, RunsFailedError)
    assert not issubclass(RunsFailedError, UserError)
    assert not issubclass(UserError, ValueError)
