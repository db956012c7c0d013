"""Which run a worker of a pool carries out next: one like its last, to compile no code again."""

from __future__ import annotations

import threading
from collections.abc import Callable, Hashable, Iterable


class Order:
    """The runs that wait, each handed out once; workers may ask at the same time.

    A worker gets the first run of the same code as its last one; where none is left, the first of
    a code that nobody has begun; and then the first of all, for no worker may idle while runs wait.

    Args:
        runs: id and code of each, in the order of the grid.
    """

    def __init__(self, runs: Iterable[tuple[str, Hashable]]) -> None:
        self._waiting = dict(runs)
        self._begun: set[Hashable] = set()
        self._last: dict[int, Hashable] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._waiting)

    def take(self, worker: int) -> str | None:
        """Return the next run of ``worker``; None: there is none left."""
        with self._lock:
            run = (
                self._first(lambda code: worker in self._last and code == self._last[worker])
                or self._first(lambda code: code not in self._begun)
                or next(iter(self._waiting), None)
            )
            if run is not None:
                self._last[worker] = self._waiting.pop(run)
                self._begun.add(self._last[worker])
            return run

    def _first(self, fits: Callable[[Hashable], bool]) -> str | None:
        return next((run for run, code in self._waiting.items() if fits(code)), None)
