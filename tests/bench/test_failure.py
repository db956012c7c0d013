"""Kinds of failure by their errors, real ones where they can be had."""

from __future__ import annotations

import pytest
import torch

from bench.failure import kind_of, reason_of


def test_torch_says_in_its_own_words_that_memory_is_out() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**60, dtype=torch.uint8)
    assert kind_of(caught.value) == "out of memory"


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (MemoryError(), "out of memory"),
        (torch.OutOfMemoryError("CUDA: tried to allocate"), "out of memory"),
        (OSError(12, "Cannot allocate memory"), "out of memory"),
        (RuntimeError("CUDA error: out of memory"), "out of memory"),
        (RuntimeError("shape mismatch"), "exception"),
        (KeyError("out of memory"), "exception"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


def test_the_reason_is_the_last_line_of_a_traceback() -> None:
    assert reason_of(ValueError("first\nsecond")) == "ValueError: first"
    assert reason_of(KeyError()) == "KeyError: "
