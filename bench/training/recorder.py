"""What records a piece of work on a device and plays it back: a CUDA graph."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor


class Recorder(Protocol):
    """What records a piece of work and plays it back."""

    def rehearse(self, work: Callable[[], object], *, without_waiting: bool) -> None:
        """Do the work as it will be done while recording; on request refuse waiting for it."""

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """Return what replays the work, and the tensor in which each replay leaves its result."""

    def recover(self) -> None:
        """Undo what a recording that failed may have left in torch."""


class CudaRecorder:
    """Records in a CUDA graph, on a stream of its own, where rehearsals take place too."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        index = torch.cuda.current_device() if device.index is None else device.index
        self._generator = torch.cuda.default_generators[index]
        self._random = self._generator.clone_state()

    def rehearse(self, work: Callable[[], object], *, without_waiting: bool = False) -> None:
        """As :class:`Recorder`."""
        mode = torch.cuda.get_sync_debug_mode()
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            if without_waiting:
                torch.cuda.set_sync_debug_mode("error")
            with torch.cuda.stream(self._stream):
                work()
        finally:
            torch.cuda.set_sync_debug_mode(mode)
            current.wait_stream(self._stream)

    def record(self, work: Callable[[], Tensor]) -> tuple[Callable[[], None], Tensor]:
        """As :class:`Recorder`."""
        self._random = self._generator.clone_state()
        graph = torch.cuda.CUDAGraph()
        # The outer block gives the stream back where ending a broken capture raises.
        # Other threads (pinning memory, say) may go on meanwhile: thread_local.
        with (
            torch.cuda.stream(self._stream),
            torch.cuda.graph(graph, stream=self._stream, capture_error_mode="thread_local"),
        ):
            result = work()
        return graph.replay, result

    def recover(self) -> None:
        """As :class:`Recorder`."""
        torch.cuda.synchronize(self._device)
        # A generator left in the middle of a capture refuses to draw; this one was not.
        self._generator.graphsafe_set_state(self._random)
