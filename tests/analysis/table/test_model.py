import math

import numpy as np

from analysis.table.model import in_percent, possible


def test_a_band_stays_within_what_the_metric_can_be() -> None:
    ends = np.array([[-3.0, 104.0], [20.0, math.nan]])
    expected = {
        "test/accuracy": [[0.0, 100.0], [20.0, math.nan]],
        "val/loss": [[0.0, 104.0], [20.0, math.nan]],
        "parameters": [[-3.0, 104.0], [20.0, math.nan]],
    }
    for metric, cut in expected.items():
        np.testing.assert_array_equal(possible(metric, ends), cut)
    assert in_percent("best/test_accuracy") and not in_percent("val/loss")
