"""Time one step of optimizers on a model's real weight shapes, side by side in one run.

On CUDA each step is compiled where the optimizer offers it and captured in a CUDA graph where it
can be, so that what is timed is its kernels; a step that cannot be captured is launched from Python
and marked. Ratios are medians of the ratios within a round. Networks are given by their real weight
shapes; they are not run.
"""

from __future__ import annotations

import functools
import json
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from omegaconf import OmegaConf
from pydantic import Field
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench import cli, config, options
from bench import files as paths
from bench.build import ImageShape, Shape, TokenShape, build_model, build_optimizer, taken_kinds
from bench.errors import UserError, suggestion
from bench.files import write_atomically
from bench.provenance import device_name
from bench.public_names import locate
from bench.setup import device_here
from bench.speed.stopwatch import Timing, Work, progress, side_by_side
from bench.table_writer import Table, drawn

# CIFAR-10's shape, and what GPT-2 was trained on.
_SHAPES: dict[type[Shape], Shape] = {
    ImageShape: ImageShape(in_channels=3, num_classes=10, image_size=32),
    TokenShape: TokenShape(vocab_size=50257, context_length=1024, num_classes=50257),
}


def skeleton(name: str) -> nn.Module:
    """Return the network of conf/model/``name``.yaml on the meta device: shapes without values.

    Raises:
        UserError: there is no such model.
    """
    files = {path.stem: path for path in (paths.conf_dir() / "model").glob("*.yaml")}
    if name not in files:
        raise UserError(f"model={name}: there is no such model; {suggestion(name, list(files))}")
    component = cast("dict[str, Any]", OmegaConf.to_container(OmegaConf.load(files[name])))
    kind = taken_kinds(locate(component["_target_"]))[0]
    with torch.device("meta"):
        return build_model(component, _SHAPES[kind])


PROG = "spectral-bench speed step"


class StepOptions(options.Options):
    """Options of the command."""

    model: str = Field("resnet18", description="A file of conf/model/.")
    optimizers: list[str] = Field(
        ["adamw", "muon", "spectral_newton"],
        description="Files of conf/optimizer/, with changes after colons: muon:ns_steps=6.",
    )
    device: str = Field("auto", description="auto, cpu, cuda.")
    compile: bool = Field(True, description="Compile steps on CUDA where the optimizer offers it.")
    baselines: list[str] = Field(
        ["adamw", "muon"], description="Those of optimizers that get a column of ratios."
    )
    part: Literal["all", "matrices"] = Field(
        "all", description="all parameters, or only the hidden matrices."
    )
    rounds: int = Field(20, ge=2, description="Rounds in which each optimizer is timed once.")
    calls: int = Field(50, ge=1, description="Steps timed together in one round.")
    error: bool = Field(True, description="Compare the first step with method=svd in float64.")
    out: Path | None = Field(None, description="Write the numbers as JSON to this file, too.")


@dataclass(frozen=True)
class Row:
    """One optimizer's numbers; ``ratios`` of its time to each baseline's, paired by round.

    ``error`` is None where there is no exact reference.
    """

    optimizer: str
    timing: Timing
    how: str
    ratios: dict[str, float]
    gflops: float
    extra_mib: float | None
    state_mib: float
    error: float | None


class Candidate:
    """One optimizer on its own copy of the weights, with fixed gradients."""

    def __init__(self, spec: str, asked: StepOptions, device: torch.device) -> None:
        self.spec, self.device = spec, device
        self.component = config.load(changes_of(spec)).optimizer
        if device.type == "cuda" and asked.compile and "compile" in self.component:
            self.component["compile"] = True
        if device.type == "cuda" and self.component["_target_"].startswith("torch.optim.Adam"):
            self.component |= {"fused": True, "capturable": True}
        self.model = materialised(asked.model, device, torch.float32, asked.part)
        self.optimizer = make(self.component, self.model)
        self.how = "eager"
        self.extra_mib: float | None = None

    def prepare(self) -> Work:
        """Warm up (and compile), measure memory, and return the step to time."""
        torch.compiler.reset()  # or the steps of many candidates would count as recompilations
        for _ in range(3):
            self.optimizer.step()
        if self.device.type != "cuda":
            return self.optimizer.step
        torch.cuda.synchronize(self.device)
        before = torch.cuda.memory_allocated(self.device)
        torch.cuda.reset_peak_memory_stats(self.device)
        self.optimizer.step()
        self.extra_mib = (torch.cuda.max_memory_allocated(self.device) - before) / 2**20
        return self._captured()

    def _captured(self) -> Work:
        graph = torch.cuda.CUDAGraph()
        try:
            stream = torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]
            stream.wait_stream(torch.cuda.current_stream(self.device))
            with torch.cuda.stream(stream):
                self.optimizer.step()
            torch.cuda.current_stream(self.device).wait_stream(stream)
            with torch.cuda.graph(graph):
                self.optimizer.step()
        except Exception as error:  # whatever it does in a step that a graph cannot hold
            torch.cuda.synchronize(self.device)
            reason = (str(error).splitlines() or [""])[0]
            print(f"{self.spec}: not captured in a graph ({reason[:90]})", flush=True)
            return self.optimizer.step
        self.how = "graph"
        return graph.replay

    def state_mib(self) -> float:
        """Memory of the optimizer's state."""
        tensors = [
            value
            for state in self.optimizer.state.values()
            for value in state.values()
            if isinstance(value, Tensor)
        ]
        return sum(t.numel() * t.element_size() for t in tensors) / 2**20


def changes_of(spec: str) -> list[str]:
    """Return the overrides that ``muon:ns_steps=6:lr=0.1`` stands for."""
    name, *changes = spec.split(":")
    return [f"optimizer={name}", *(f"++optimizer.{change}" for change in changes)]


def materialised(
    name: str, device: torch.device, dtype: torch.dtype, part: str = "all"
) -> nn.Module:
    """Return the model's shapes on ``device`` with zero weights and seeded gradients.

    With ``part`` "matrices", all but the hidden matrices have none, so that no optimizer steps
    them.

    Gradients have singular values that fall about as 1/k, as measured ones do; zero weights make a
    step's update exact in any precision.
    """
    model = skeleton(name)
    hidden = _hidden(model) if part == "matrices" else None
    model = model.to_empty(device=device)
    stream = torch.Generator().manual_seed(0)
    for parameter_name, parameter in model.named_parameters():
        parameter.data.zero_()
        if hidden is not None and parameter_name not in hidden:
            continue
        shape = parameter.flatten(1).shape if parameter.ndim > 1 else parameter.shape
        gradient = torch.randn(shape, generator=stream)
        if parameter.ndim > 1 and min(shape) <= 8192:
            side = min(shape)
            decay = 1.0 / torch.arange(1, side + 1)
            mixing = torch.randn(side, side, generator=stream) * decay
            short_first = gradient if shape[0] == side else gradient.T
            short_first = mixing @ short_first
            gradient = short_first if shape[0] == side else short_first.T
        parameter.grad = gradient.reshape(parameter.shape).contiguous().to(device)
    if dtype is torch.float64:
        gradients = [parameter.grad for parameter in model.parameters()]
        model = model.double()
        for parameter, single in zip(model.parameters(), gradients, strict=True):
            parameter.grad = None if single is None else single.double()
    return model


def _hidden(model: nn.Module) -> set[str]:
    """Names of the parameters that optimizer=muon takes for hidden matrices."""
    optimizer = build_optimizer(config.load(["optimizer=muon"]).optimizer, model)
    matrices = {
        id(parameter)
        for group in optimizer.param_groups
        if group["algorithm"] == "matrix"
        for parameter in group["params"]
    }
    return {name for name, parameter in model.named_parameters() if id(parameter) in matrices}


def make(component: dict[str, Any], model: nn.Module) -> torch.optim.Optimizer:
    """Build the optimizer; on CUDA its learning rates are tensors, as a graph needs."""
    optimizer = build_optimizer(component, model)
    device = next(model.parameters()).device
    if device.type == "cuda" and (component.get("capturable") or "compile" in component):
        for group in optimizer.param_groups:
            group["lr"] = torch.tensor(float(group["lr"]), device=device)
    return optimizer


def error_of(component: dict[str, Any], asked: StepOptions, device: torch.device) -> float | None:
    """Relative Frobenius error of the first update against method=svd in float64; None without."""
    if "method" not in component:
        return None
    exact = {**component, "method": "svd", "compile": False}
    updates = []
    for options_, dtype in ((component, torch.float32), (exact, torch.float64)):
        model = materialised(asked.model, device, dtype, asked.part)
        optimizer = make({**options_, "weight_decay": 0.0}, model)
        optimizer.step()
        hidden = [
            parameter.detach().double()
            for group in optimizer.param_groups
            if group.get("algorithm") == "matrix"
            for parameter in group["params"]
        ]
        updates.append(hidden)
    errors = [float((a - b).norm() / b.norm()) for a, b in zip(*updates, strict=True)]
    return max(errors)


def flops_of(component: dict[str, Any], asked: StepOptions, device: torch.device) -> float:
    """GFLOPs of the matrix products of one step, as torch counts them."""
    model = materialised(asked.model, device, torch.float32, asked.part)
    plain = {**component, "compile": False} if "compile" in component else component
    optimizer = make(plain, model)
    optimizer.step()
    with FlopCounterMode(display=False) as counter:
        optimizer.step()
    return float(counter.get_total_flops()) / 1e9


def measure(asked: StepOptions, device: torch.device) -> list[Row]:
    """Time every optimizer asked for."""
    candidates = [Candidate(spec, asked, device) for spec in asked.optimizers]
    works = {}
    for candidate in candidates:
        works[candidate.spec] = candidate.prepare()
        progress(f"{candidate.spec}: ready to be timed ({candidate.how})")
    timings = side_by_side(works, device, rounds=asked.rounds, calls=asked.calls)
    rows = []
    for candidate in candidates:
        timing = timings[candidate.spec]
        progress(f"{candidate.spec}: {timing.median:.3f} ms a step; its FLOPs and error are next")
        ratios = {
            baseline: timing.ratio_to(timings[baseline])
            for baseline in asked.baselines
            if baseline in timings
        }
        error = error_of(candidate.component, asked, device) if asked.error else None
        flops = flops_of(candidate.component, asked, device)
        rows.append(
            Row(
                optimizer=candidate.spec,
                timing=timing,
                how=candidate.how,
                ratios=ratios,
                gflops=flops,
                extra_mib=candidate.extra_mib,
                state_mib=candidate.state_mib(),
                error=error,
            )
        )
    return rows


def render(rows: list[Row]) -> Table:
    """Return the rows as a table."""
    against = list(rows[0].ratios)
    cells = [
        [
            row.optimizer,
            f"{row.timing.median:.3f}",
            f"{row.timing.low:.3f}-{row.timing.high:.3f}",
            *(f"{row.ratios[name]:.2f}" for name in against),
            f"{row.gflops:.1f}",
            _number(row.extra_mib, ".0f"),
            _number(None if row.error is None else 100 * row.error, ".2f", " %"),
            row.how,
        ]
        for row in rows
    ]
    numbers = ["ms/step", "quartiles", *(f"x {name}" for name in against)]
    numbers += ["GFLOP", "extra MiB", "error"]
    return Table(("optimizer", *numbers, "how"), cells, align=f"l{'r' * len(numbers)}l")


def _number(value: float | None, form: str, unit: str = "") -> str:
    return "-" if value is None else f"{value:{form}}{unit}"


def environment(device: torch.device) -> dict[str, str]:
    """Return what a timing must be reported with."""
    return {
        "device": device_name(device),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "python": platform.python_version(),
    }


def main(argv: list[str]) -> None:
    """Run the command."""
    asked = options.parse(
        StepOptions,
        argv,
        prog=PROG,
        description=__doc__ or "",
        examples=(
            "model=resnet18",
            "model=gpt2_small optimizers=adamw,muon,spectral_newton:damping=0.1 out=steps.json",
        ),
    )
    device = device_here(asked.device)
    try:
        rows = measure(asked, device)
    except torch.OutOfMemoryError as error:
        raise UserError(f"model={asked.model}: out of memory; ask for fewer optimizers") from error
    about = environment(device)
    what = "" if asked.part == "all" else ", hidden matrices only"
    print(f"{asked.model}{what}, {', '.join(f'{key} {value}' for key, value in about.items())}")
    options.show(drawn(render(rows), "boxed"))
    print(
        "error: largest relative error of a layer's update against an SVD in float64;\n"
        "GFLOP: matrix products only; extra: peak memory of a step beyond weights and state"
    )
    if asked.out is not None:
        content = {
            "model": asked.model,
            "part": asked.part,
            **about,
            "rows": [asdict(row) for row in rows],
        }
        text = json.dumps(content, indent=1) + "\n"
        write_atomically(asked.out, lambda stream: stream.write(text.encode()))


if __name__ == "__main__":
    cli.guarded(functools.partial(options.run, main))
