"""Which weights of a transformer hold the largest block of the Hessian's diagonal."""

from __future__ import annotations

import numpy as np
import pandas as pd

ATTENTION_AND_MLP = ("query", "key", "value", "output", "mlp_up", "mlp_down")
_KEY_VALUE, _REST = ["key", "value"], ["query", "mlp_up", "mlp_down"]


def with_order(blocks: pd.DataFrame) -> pd.DataFrame:
    """Add two columns to blocks of Hessians, by the root mean square of a block's entries.

    ``place``: of a role's block on the diagonal among those of `ATTENTION_AND_MLP` of the same run
    and step, 1 the largest; NaN for all other blocks. ``key_value_excess``, in the row of the
    value's block: the smaller of the key's and the value's blocks by the largest of the query's and
    the MLP's.
    """
    if blocks.empty:
        return blocks
    own = blocks[
        (blocks["level"] == "role")
        & (blocks["row"] == blocks["col"])
        & blocks["row"].isin(ATTENTION_AND_MLP)
    ]
    size = own["frobenius_per_entry"]
    place = size.groupby([own["run"], own["step"]]).rank(ascending=False)
    found = blocks.assign(place=place.reindex(blocks.index), key_value_excess=np.nan)
    for _, group in own.groupby(["run", "step"]):
        by_role = group.set_index("row")["frobenius_per_entry"]
        if set(ATTENTION_AND_MLP) <= set(by_role.index) and by_role[_REST].max() > 0:
            at = group.index[group["row"] == "value"]
            excess = by_role[_KEY_VALUE].min() / by_role[_REST].max()
            found.loc[at, "key_value_excess"] = excess
    return found
