"""A whole training step as one CUDA graph, refused wherever its replay would not be that step.

Whether a step can be captured is found out by trying: it is rehearsed, recorded, and then replayed
beside the same steps launched from Python. Weights, optimizer and random state are afterwards what
they were before, whether the attempt succeeded or not.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from bench.snapshot import Snapshot
from bench.training.host_state import difference, fingerprint
from bench.training.recorder import Recorder

Launch = Callable[[Tensor, Tensor], Tensor]

# Largest difference of two replayed steps from two launched ones, in lengths of those steps.
# Kernels that add in any order, and Adam's signs of gradients near zero, differ by less.
_TOLERANCE = 0.1


class NotCapturableError(Exception):
    """The step cannot be replayed by a graph; the text says why, in a few words."""


class StepGraph:
    """A recorded step: ``replay`` makes one, of a batch of the recorded shapes.

    The step reads inputs, targets and learning rates from memory of its own, which is filled anew
    each time; nothing waits for the device.
    """

    def __init__(
        self, optimizer: torch.optim.Optimizer, inputs: Tensor, targets: Tensor, recorder: Recorder
    ) -> None:
        self.optimizer, self.recorder = optimizer, recorder
        self.inputs, self.targets = torch.empty_like(inputs), torch.empty_like(targets)
        self.rates = [torch.zeros((), device=inputs.device) for _ in optimizer.param_groups]
        self._filled: list[float | None] = [None] * len(self.rates)
        self._replay: Callable[[], None] = _nothing_recorded
        self._loss = torch.zeros((), device=inputs.device)

    def fits(self, inputs: Tensor, targets: Tensor) -> bool:
        """Whether the batch has the recorded shapes and types."""
        pairs = ((inputs, self.inputs), (targets, self.targets))
        return all(new.shape == own.shape and new.dtype == own.dtype for new, own in pairs)

    def record(self, launch: Launch) -> None:
        """Record ``launch`` on the memory of this step, learning rates as tensors."""
        with self.tensor_rates():
            self._replay, self._loss = self.recorder.record(
                lambda: launch(self.inputs, self.targets)
            )

    def fill(self, inputs: Tensor, targets: Tensor, rates: Sequence[float] | None = None) -> None:
        """Copy in a batch, and the learning rates (None: the optimizer's own)."""
        self.inputs.copy_(inputs, non_blocking=True)
        self.targets.copy_(targets, non_blocking=True)
        own = [float(group["lr"]) for group in self.optimizer.param_groups]
        for index, value in enumerate(own if rates is None else rates):
            if self._filled[index] != value:
                self.rates[index].fill_(value)
                self._filled[index] = value

    def replay(self) -> Tensor:
        """Make a step of what was filled in; return its loss, overwritten by the next one."""
        self._replay()
        return self._loss

    @contextmanager
    def tensor_rates(self) -> Iterator[None]:
        """Give the optimizer this step's learning rates, tensors on the device, for a while."""
        groups = self.optimizer.param_groups
        kept = [group["lr"] for group in groups]
        try:
            for group, rate in zip(groups, self.rates, strict=True):
                group["lr"] = rate
            yield
        finally:
            for group, rate in zip(groups, kept, strict=True):
                group["lr"] = rate


def _nothing_recorded() -> None:
    raise RuntimeError("record a step before replaying it")


def capture(
    launch: Launch,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: tuple[Tensor, Tensor],
    recorder: Recorder,
) -> StepGraph:
    """Record a step of which at least one was made before, so that its state exists.

    ``launch`` makes a step of inputs and targets from Python (zero_grad, forward, backward, clip,
    optimizer) and returns its loss, without its graph; ``batch`` is an example of the shapes of
    all steps to come.

    Raises:
        NotCapturableError: it cannot be recorded, or its replay differs from the step.
    """
    snapshot = Snapshot(model, optimizer)
    step = StepGraph(optimizer, *batch, recorder)
    recording = False
    try:
        step.fill(*batch)
        with step.tensor_rates():
            for number in range(2):  # the first may compile, and so wait
                before = _everything(model, optimizer, step.inputs.device)
                recorder.rehearse(
                    lambda: launch(step.inputs, step.targets), without_waiting=number > 0
                )
                changed = difference(before, _everything(model, optimizer, step.inputs.device))
                if changed is not None:
                    raise NotCapturableError(changed)
        recording = True
        step.record(launch)
        recording = False
        _check(step, launch, model, snapshot, batch)
    except NotCapturableError:
        snapshot.restore()
        raise
    except Exception as error:  # whatever it does in a step that a graph cannot hold
        if recording:
            recorder.recover()
        snapshot.restore()
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise NotCapturableError(reason[:150]) from error
    snapshot.restore()
    return step


def _everything(
    model: nn.Module, optimizer: torch.optim.Optimizer, device: torch.device
) -> dict[str, Any]:
    places = {
        f"the model's {name}": (tensor.data_ptr(), tuple(tensor.shape), tensor.stride())
        for name, tensor in (*model.named_parameters(), *model.named_buffers())
    }
    return places | fingerprint(optimizer, device)


def _check(
    step: StepGraph,
    launch: Launch,
    model: nn.Module,
    snapshot: Snapshot,
    batch: tuple[Tensor, Tensor],
) -> None:
    """Compare two replayed steps with two launched ones: other data and another rate each."""
    groups = step.optimizer.param_groups
    full = [float(group.get("initial_lr", group["lr"])) for group in groups]
    halves = [rate / 2 for rate in full]
    turns = [(batch[0], full), (batch[0].roll(1, 0), halves)]
    parameters = list(model.parameters())

    def after(make: Callable[[], object]) -> list[Tensor]:
        snapshot.restore()
        for inputs, rates in turns:
            step.fill(inputs, batch[1], rates)
            make()
        return [parameter.detach().clone() for parameter in parameters]

    snapshot.restore()
    start = [parameter.detach().clone() for parameter in parameters]
    replayed = after(step.replay)
    with step.tensor_rates():
        launched = after(lambda: launch(step.inputs, step.targets))
    error = _length(replayed, launched) / _length(launched, start)
    if not error <= _TOLERANCE:  # nan is no agreement
        raise NotCapturableError(f"a replayed step differs from a launched one by {error:.0%}")


def _length(left: Sequence[Tensor], right: Sequence[Tensor]) -> float:
    squares = [(a - b).double().square().sum() for a, b in zip(left, right, strict=True)]
    return math.sqrt(max(float(torch.stack(squares).sum()), 1e-300))
