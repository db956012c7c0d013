from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from analysis.claim.model import Rule, load_claims

CLAIM: dict[str, Any] = {
    "id": "one", "source": "1", "statement": "alpha is 2", "stated": "2",
    "rule": {"about": 2, "within": 0.1}, "quantity": {"column": "alpha"},
}  # fmt: skip


def _file(tmp_path: Path, *claims: Any) -> Path:
    path = tmp_path / "claims.yaml"
    path.write_text(yaml.safe_dump(list(claims)))
    return path


def test_the_shipped_claims_cover_the_whole_list() -> None:
    claims = load_claims()
    numbers = {int(re.split(r"\D", claim.source)[0]) for claim in claims}
    assert numbers == {*range(1, 50), 2510}  # the second source's
    assert all(c.nulls for c in claims if c.quantity and c.quantity.column == "identity_error")


@pytest.mark.parametrize(
    ("rule", "ends"),
    [
        ({"about": 2, "within": 0.5}, (1.5, 2.5)),
        ({"at_least": 1}, (1, float("inf"))),
        ({"at_most": 1}, (float("-inf"), 1)),
        ({"between": [1, 2]}, (1, 2)),
    ],
)
def test_a_rule_says_which_values_it_accepts(rule: Any, ends: tuple[float, float]) -> None:
    assert Rule(**rule).ends == ends


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"rule": {}}, "exactly one of"),
        ({"rule": {"at_least": 1, "at_most": 2}}, "exactly one of"),
        ({"rule": {"about": 1}}, "belong together"),
        ({"rule": {"at_least": 1, "within": 1}}, "belong together"),
        ({"rule": {"between": [2, 1]}}, "lower end first"),
        ({"rule": None}, "quantity and rule belong together"),
        ({"reason": "none"}, "or the reason"),
        ({"rule": None, "quantity": None}, "or the reason"),
        ({"quantity": {"column": "alpha", "statistic": "mode"}}, "quantity.statistic"),
        ({"verdict": "holds"}, "verdict"),
    ],
)
def test_a_claim_that_cannot_be_judged_is_refused(
    tmp_path: Path, change: dict[str, Any], told: str
) -> None:
    with pytest.raises(ValueError, match=f"claim one.*{re.escape(told)}"):
        load_claims(_file(tmp_path, CLAIM | change))


def test_a_file_of_claims_is_checked_as_a_whole(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="one is there twice"):
        load_claims(_file(tmp_path, CLAIM, CLAIM))
    with pytest.raises(ValueError, match="expected a list"):
        load_claims(_file(tmp_path))
    (tmp_path / "claims.yaml").write_text("a: [")
    with pytest.raises(ValueError, match="not YAML"):
        load_claims(tmp_path / "claims.yaml")
