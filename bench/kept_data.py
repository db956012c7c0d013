"""Datasets that a process keeps in memory from one run to the next, within a budget."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Any

from torch import Tensor

BUDGET = 2 * 2**30  # bytes: five seeds of CIFAR, one of Tiny-ImageNet


class KeptData:
    """The datasets used last, as many as fit into ``budget`` bytes, and the newest in any case."""

    def __init__(self, budget: int = BUDGET) -> None:
        self._budget = budget
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()

    def get(self, key: Hashable, load: Callable[[], Any]) -> Any:
        """Return what is kept under ``key``, or else ``load()``, which is kept from now on."""
        if key not in self._kept:
            self._kept[key] = load()
        self._kept.move_to_end(key)
        while len(self._kept) > 1 and sum(map(bytes_of, self._kept.values())) > self._budget:
            self._kept.popitem(last=False)
        return self._kept[key]


def bytes_of(data: Any) -> int:
    """Return the size of the tensors in a dataset, through dataclasses within it."""
    if isinstance(data, Tensor):
        return data.nbytes
    if dataclasses.is_dataclass(data):
        return sum(bytes_of(getattr(data, field.name)) for field in dataclasses.fields(data))
    return 0
