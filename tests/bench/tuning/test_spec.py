"""What a sweep file says of its study, and how its mistakes are named."""

from __future__ import annotations

from typing import Any

import pytest

from bench.errors import UserError
from bench.tuning.spec import Study, looks_of, study_of


def test_a_config_without_a_study_asks_for_nothing() -> None:
    assert study_of({}) == Study(exponents=None, tuning=None, looks=1, contrasts=[])


def test_what_a_study_says_of_its_verdicts() -> None:
    found = study_of({"study": {"looks": 2, "contrasts": [["muon", "sgd"]]}})
    assert (found.looks, found.contrasts) == (2, [("muon", "sgd")])


def test_looks_of_a_sweep() -> None:
    assert looks_of("study_a_8") >= 3
    assert looks_of("digits") == looks_of("no such sweep") == looks_of("") == 1


@pytest.mark.parametrize(
    ("study", "said"),
    [
        ({"looks": 0}, "study.looks: input should be greater than or equal to 1"),
        ({"contrasts": [["muon"]]}, "study.contrasts.0.1: field required"),
        ({"contrasts": [["muon", "muon"]]}, "study.contrasts: muon cannot be compared with itself"),
        ({"contrasts": [["a", "b"], ["b", "a"]]}, "study.contrasts: a pair stands there twice"),
        ({"look": 2}, "study.look: extra inputs are not permitted"),
    ],
)
def test_a_mistake_is_named(study: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as caught:
        study_of({"study": study})
    assert str(caught.value) == said
