import numpy as np
import pandas as pd
import pytest
from hessian_tables import blocks

from analysis.run.block_order import with_order


def ordered(size: dict[str, float]) -> pd.DataFrame:
    return with_order(blocks(size).assign(run="r")).set_index(["row", "col"])


def test_places_are_among_attention_and_mlp_weights_alone() -> None:
    found = ordered({"value": 4.0, "key": 3.0, "mlp_up": 0.5, "head": 100.0})
    assert found.loc[("value", "value"), "place"] == 1
    assert found.loc[("key", "key"), "place"] == 2
    assert found.loc[("mlp_up", "mlp_up"), "place"] == 6
    assert np.isnan(found.loc[("head", "head"), "place"])
    assert np.isnan(found.loc[("key", "value"), "place"])
    per_entry = found["frobenius_per_entry"]
    expected = per_entry[("key", "key")] / max(
        per_entry[(role, role)] for role in ("query", "mlp_up", "mlp_down")
    )
    assert found.loc[("value", "value"), "key_value_excess"] == pytest.approx(expected)
    assert found["key_value_excess"].notna().sum() == 1


def test_each_run_and_step_has_its_own_order() -> None:
    tables = [
        blocks({"value": 3.0}, epoch=epoch).assign(run=run) if epoch else
        blocks({"query": 3.0}, epoch=0.0).assign(run=run)
        for run in "ab" for epoch in (0.0, 5.0)
    ]  # fmt: skip
    found = with_order(pd.concat(tables, ignore_index=True))
    first = found[found["place"] == 1]
    assert list(zip(first["run"], first["epoch"], first["row"], strict=True)) == [
        ("a", 0, "query"), ("a", 5, "value"), ("b", 0, "query"), ("b", 5, "value"),
    ]  # fmt: skip


def test_by_parameter_or_without_attention_there_is_no_order() -> None:
    table = blocks({}).assign(run="r")
    assert with_order(table.assign(level="parameter"))["place"].isna().all()
    some = table[~table["row"].isin(["mlp_up"]) & ~table["col"].isin(["mlp_up"])]
    assert with_order(some)["key_value_excess"].isna().all()
    assert with_order(pd.DataFrame()).empty
