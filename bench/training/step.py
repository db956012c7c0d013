"""One training step, as fast as the device allows; what it computes is the same in every way.

Three ways of making it: launched from Python; with forward and backward compiled; and, on CUDA,
the whole step (forward, backward, clipping, optimizer) replayed as one graph. The first steps of a
run are always launched, so that a graph is recorded with everything compiled and every state there.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR

from bench.errors import UserError
from bench.setup import Setup
from bench.training.graph import (
    CudaRecorder,
    NotCapturableError,
    Recorder,
    StepGraph,
    capture,
    difference,
    fingerprint,
)
from bench.training.losses import cross_entropy

# Launched before a graph is tried: the first makes the optimizer's state, the second is watched.
_LAUNCHED_FIRST = 2
# Of a parameter group: how torch computes its step, not what. Not kept in a checkpoint.
_MEANS = ("fused", "capturable")
_NO_GRAPH = "no CUDA graph, steps are launched from Python"


class TrainingStep:
    """Owns model, optimizer and schedule, and makes steps of batches.

    Args:
        setup: of the run; a step's team makes it together, each rank on its share of the batch.
        model: on the setup's device.
        note: is given a line where a graph was to be tried and is not used.
        recorder: what records steps; None for a CUDA graph where the setup wants one.

    Attributes:
        cold: whether the next step compiles, or prepares a graph.
        graph: the recorded step, None as long as steps are launched.
    """

    def __init__(
        self,
        setup: Setup,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: LambdaLR,
        *,
        note: Callable[[str], None] | None = None,
        recorder: Recorder | None = None,
    ) -> None:
        self.model, self.optimizer, self.schedule = model, optimizer, schedule
        self.device, self.config, self._note = (
            setup.device,
            setup.config.trainer,
            note or setup.note,
        )
        if setup.cuda_graph:
            recorder = recorder or CudaRecorder(self.device)
        elif self.device.type == "cuda" and self.config.cuda_graph == "auto":
            # Gradients are averaged while backward runs, from Python: no graph holds that.
            self._note(f"{_NO_GRAPH}: {setup.team.size} devices")
        self._recorder = recorder  # None once a graph is recorded, or refused
        self._means = [{key: group.get(key) for key in _MEANS} for group in optimizer.param_groups]
        if self.device.type == "cuda":
            choose_means(optimizer, capturable=recorder is not None)
        self.objective = make_objective(setup, model)
        self.cold = self.config.compile or recorder is not None
        self.graph: StepGraph | None = None
        self._launched = 0
        self._refusal: str | None = None

    def __call__(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make a step; return its loss, a scalar on the device, overwritten by the next step."""
        if not self.model.training:
            self.model.train()
        if self._recorder is not None and self._launched == _LAUNCHED_FIRST:
            self._try_graph(self._recorder, (inputs, targets))
        if self.graph is not None and self.graph.fits(inputs, targets):
            self.graph.fill(inputs, targets)
            loss = self.graph.replay()
        elif self._recorder is not None:
            loss = self._launch_and_watch(self._recorder, inputs, targets)
        else:
            loss = self.launch(inputs, targets)
        self.schedule.step()
        if self.cold:
            if self.device.type == "cuda":  # so that the compiling is counted where it belongs
                torch.cuda.synchronize(self.device)
            self.cold = self._recorder is not None
        return loss

    def launch(self, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make a step from Python, without the schedule; return its loss."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = self.objective(inputs, targets)
        loss.backward()  # type: ignore[no-untyped-call]
        if self.config.grad_clip is not None:
            nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip)
        self.optimizer.step()
        return loss.detach()

    # -- the graph ------------------------------------------------------------------------------

    def _launch_and_watch(self, recorder: Recorder, inputs: Tensor, targets: Tensor) -> Tensor:
        """Make a step where a graph would, and note whether it changed anything on the host."""
        losses: list[Tensor] = []
        before = fingerprint(self.optimizer, self.device)
        recorder.rehearse(
            lambda: losses.append(self.launch(inputs, targets)), without_waiting=False
        )
        # The first step makes the state, and so differs.
        self._refusal = difference(before, fingerprint(self.optimizer, self.device))
        self._launched += 1
        return losses[0]

    def _try_graph(self, recorder: Recorder, batch: tuple[Tensor, Tensor]) -> None:
        self._recorder = None
        try:
            if self._refusal is not None:
                raise NotCapturableError(f"the optimizer's {self._refusal.lstrip('.')}")
            self.graph = capture(self.launch, self.model, self.optimizer, batch, recorder)
        except NotCapturableError as error:
            if self.config.cuda_graph is True:
                raise UserError(
                    f"trainer.cuda_graph=true: the step cannot be captured ({error}); use auto"
                ) from error
            self._note(f"{_NO_GRAPH}: {error}")

    # -- checkpoints ----------------------------------------------------------------------------

    def optimizer_state(self) -> dict[str, Any]:
        """Return the optimizer's state dict, independent of how steps are computed."""
        state = self.optimizer.state_dict()
        for group, means in zip(state["param_groups"], self._means, strict=True):
            group.update({key: value for key, value in means.items() if key in group})
        return state

    def load_optimizer_state(self, state: dict[str, Any]) -> None:
        """Continue from what :meth:`optimizer_state` gave; to be called before the first step."""
        groups = []
        for saved, group in zip(state["param_groups"], self.optimizer.param_groups, strict=True):
            groups.append({**saved, **{key: group[key] for key in _MEANS if key in group}})
        self.optimizer.load_state_dict({**state, "param_groups": groups})


def make_objective(setup: Setup, model: nn.Module) -> Callable[[Tensor, Tensor], Tensor]:
    """Return the training loss as a function of inputs and targets, compiled if asked for.

    Its gradients are averages over the ranks.
    """
    config, kind = setup.config.trainer, setup.device.type
    smoothing, bf16 = config.label_smoothing, setup.precision == "bf16"
    # The graph, where there is one, is of the whole step: none inside.
    compiled = functools.partial(torch.compile, dynamic=False, options={"triton.cudagraphs": False})
    several = setup.team.size > 1
    inner = cast(nn.Module, compiled(model)) if config.compile and several else model
    network = setup.team.average_gradients(inner)

    def loss(inputs: Tensor, targets: Tensor) -> Tensor:
        return cross_entropy(network(inputs), targets, smoothing)

    inside = compiled(loss) if config.compile and not several else loss

    # Around the compiled code, not in it: torch caches no derivatives of code that begins autocast.
    def objective(inputs: Tensor, targets: Tensor) -> Tensor:
        with torch.autocast(kind, dtype=torch.bfloat16, enabled=bf16):
            return cast(Tensor, inside(inputs, targets))

    return objective


def choose_means(optimizer: torch.optim.Optimizer, *, capturable: bool) -> None:
    """Take torch's fused kernels where an optimizer has them and nothing else was chosen."""
    for group in optimizer.param_groups:
        free = group.get("foreach") is None and not group.get("differentiable")
        if "fused" in group and group["fused"] is None and free:
            group["fused"] = all(param.is_floating_point() for param in group["params"])
        if "capturable" in group and capturable:
            group["capturable"] = True
