"""A whole training step as one CUDA graph, refused wherever its replay would not be that step.

Whether a step can be captured is decided by trying: it is rehearsed, recorded, and then replayed
beside the same steps launched from Python. Weights, optimizer and random state are afterwards what
they were before, whether the attempt succeeded or not.

A CUDA graph repeats kernels, not Python: an optimizer that counts its steps in Python, draws random
numbers on the CPU or replaces its state tensors would silently do something else in a graph.
What it keeps on the host is compared before and after a step.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn


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


_PLAIN = (bool, int, float, complex, str, bytes, type(None))


def fingerprint(optimizer: torch.optim.Optimizer, device: torch.device) -> dict[str, Any]:
    """Return, by path, what an optimizer keeps on the host, and where on ``device`` the rest lies.

    Paths read as Python does: ``.param_groups[0]['steps']``. Learning rates are left out: they are
    inputs of a step.
    """
    return dict(_leaves(optimizer, "", device.type, {id(optimizer)}))


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> str | None:
    """Describe briefly what a step changed between two fingerprints; None for nothing."""
    for path in [*before, *(path for path in after if path not in before)]:
        if path not in before or path not in after:
            return f"{path} appears or disappears"
        old, new = before[path], after[path]
        if isinstance(old, Tensor) and isinstance(new, Tensor):
            if not torch.equal(old, new):
                return f"{path} changes on the host"
        elif old != new:
            moved = isinstance(old, tuple) and isinstance(new, tuple)
            return f"{path} is replaced by a new tensor" if moved else f"{path} changes on the host"
    return None


def _leaves(value: Any, path: str, device: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    for name, item in _parts(value):
        where = path + name
        if isinstance(item, Tensor):
            held = item.device.type == device
            yield where, _place(item) if held else item.detach().clone()
        elif isinstance(item, torch.Generator):
            yield where, item.get_state()
        elif isinstance(item, _PLAIN):
            yield where, item
        elif id(item) not in seen:
            seen.add(id(item))
            yield from _leaves(item, where, device, seen)


def _place(tensor: Tensor) -> tuple[int, tuple[int, ...], tuple[int, ...]]:
    return tensor.data_ptr(), tuple(tensor.shape), tensor.stride()


def _parts(value: Any) -> Iterator[tuple[str, Any]]:
    """The items of a container, or the attributes of an object, each with its way of access."""
    if isinstance(value, Mapping):
        for number, (key, item) in enumerate(value.items()):
            if key != "lr":  # an input
                yield f"[{key!r}]" if isinstance(key, str) else f"[{number}]", item
    elif isinstance(value, list | tuple):
        for number, item in enumerate(value):
            yield f"[{number}]", item
    elif isinstance(value, nn.Module | type) or callable(value):
        return
    elif hasattr(value, "__dict__"):
        for name, item in vars(value).items():
            yield f".{name}", item


class Snapshot:
    """Weights, buffers, optimizer state and random state, to be put back into the same memory."""

    def __init__(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self._optimizer = optimizer
        self._groups = [_own(group) for group in optimizer.param_groups]
        self._states = {param: dict(state) for param, state in optimizer.state.items()}
        tensors = [*model.parameters(), *model.buffers()]
        tensors += _tensors([self._groups, list(self._states.values())])
        self._tensors = [(tensor, tensor.detach().clone()) for tensor in tensors]
        self._random = torch.get_rng_state()
        cuda = [tensor.device for tensor in tensors if tensor.is_cuda][:1]
        self._random_cuda = [(device, torch.cuda.get_rng_state(device)) for device in cuda]

    @torch.no_grad()
    def restore(self) -> None:
        """Put everything back but learning rates; gradients are dropped."""
        for group, kept in zip(self._optimizer.param_groups, self._groups, strict=True):
            group.update(kept)
        for param in set(self._optimizer.state) - set(self._states):
            del self._optimizer.state[param]
        for param, state in self._states.items():
            self._optimizer.state[param].clear()
            self._optimizer.state[param].update(state)
        for tensor, copy in self._tensors:
            tensor.copy_(copy)
        self._optimizer.zero_grad(set_to_none=True)
        torch.set_rng_state(self._random)
        for device, random in self._random_cuda:
            torch.cuda.set_rng_state(random, device)


def _own(group: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in group.items() if key not in ("params", "lr")}


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _tensors(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _tensors(item)


Launch = Callable[[Tensor, Tensor], Tensor]

# Largest difference of two replayed steps from two launched ones, in lengths of those steps.
# Kernels that add in any order, and Adam's signs of gradients near zero, differ by less.
_TOLERANCE = 0.1


class NotCapturableError(Exception):
    """The step cannot be replayed by a graph; the text is the reason, in short."""


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
    trials = [(batch[0], full), (batch[0].roll(1, 0), halves)]
    parameters = list(model.parameters())

    def after(make: Callable[[], object]) -> list[Tensor]:
        snapshot.restore()
        for inputs, rates in trials:
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
