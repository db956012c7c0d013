"""The stated Bayes error against closed forms and against the best classifier on real samples."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from scipy.stats import norm

from bench.build import ImageShape
from bench.data import synthetic_images
from bench.data.images import Augment
from bench.data.synthetic_images import bayes_error, load, make_patterns

NOWHERE = Path("no/such/folder")
TINY: dict[str, Any] = {"image_size": 6, "in_channels": 2, "num_classes": 5}


def test_two_classes_have_a_closed_form() -> None:
    for separation in (0.0, 1.0, 3.0):
        assert bayes_error(2, separation) == pytest.approx(norm.cdf(-separation / 2**0.5), abs=1e-9)


def test_without_patterns_it_is_a_guess_and_far_apart_there_is_none() -> None:
    for classes in (2, 10, 200):
        assert bayes_error(classes, 0) == pytest.approx(1 - 1 / classes, abs=1e-9)
        assert bayes_error(classes, 20) < 1e-12
    assert bayes_error(10, 3) < bayes_error(100, 3)


@pytest.mark.parametrize("separation", [1.0, 2.5])
def test_the_best_classifier_has_the_stated_error(separation: float) -> None:
    count = 40_000
    data = load(NOWHERE, 0, count=count, test_count=10, separation=separation, **TINY)
    images = torch.cat([data.train.images, data.val.images]).float().flatten(1) - 128
    labels = torch.cat([data.train.labels, data.val.labels])
    found = ((images @ make_patterns(data.shape).flatten(1).T).argmax(1) != labels).double().mean()
    expected = bayes_error(5, separation)
    standard_error = (expected * (1 - expected) / count) ** 0.5
    assert abs(float(found) - expected) < 4 * standard_error + 1e-3


def test_patterns_are_orthonormal_and_not_flat() -> None:
    patterns = make_patterns(ImageShape(3, 100, 7)).flatten(1).double()
    torch.testing.assert_close(patterns @ patterns.T, torch.eye(100).double(), atol=1e-6, rtol=0)
    assert patterns.sum(dim=1).abs().max() < 1e-5  # none is brightness alone
    whole = make_patterns(ImageShape(1, 15, 4)).flatten(1).double()  # all that there are
    torch.testing.assert_close(whole @ whole.T, torch.eye(15).double(), atol=1e-6, rtol=0)


def test_shapes_sizes_and_classes() -> None:
    data = load(NOWHERE, 0, count=100, test_count=20, validation=10, pad=1, flip=True, **TINY)
    assert data.shape == ImageShape(2, 5, 6) == synthetic_images.shape(**TINY)
    assert [data.size(name) for name in ("train", "val", "test")] == [90, 10, 20]
    assert data.val.labels.bincount().tolist() == [2] * 5
    assert data.augment == Augment(pad=1, flip=True)
    plain = load(NOWHERE, 0, count=500, test_count=20, separation=0.0, **TINY)
    assert plain.train.images.float().std().item() == pytest.approx(32, rel=0.02)


def test_the_images_are_one_for_all_seeds_and_no_chunk_repeats() -> None:
    first, second = (load(NOWHERE, seed, count=5000, test_count=10, **TINY) for seed in (0, 1))
    assert torch.equal(first.test.images, second.test.images)
    assert not torch.equal(first.val.images, second.val.images)
    assert len(torch.cat([first.train.images, first.val.images]).unique(dim=0)) == 5000


@pytest.mark.parametrize(
    ("option", "says"),
    [
        ({"num_classes": 72}, "num_classes=72 does not fit images of 2x6x6: .* 2 to 71"),
        ({"num_classes": 1}, "num_classes=1 does not fit"),
        ({"image_size": 0}, "does not fit images of 2x0x0"),
        ({"separation": -1.0}, "separation must be 0 or more"),
        ({"count": 0}, "count=0 and test_count=2000 must be 1 or more"),
        ({"validation": 2.0}, "validation=2"),
    ],
)
def test_impossible_options_are_refused(option: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        load(NOWHERE, 0, **{**TINY, **option})


def test_prepare_states_the_error() -> None:
    said = synthetic_images.prepare(NOWHERE, num_classes=5, separation=2.0)
    assert said.endswith(f"Bayes error {100 * bayes_error(5, 2.0):.2f} %")
