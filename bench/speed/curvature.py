"""Time exact directional curvature of all layers: our engines, and others, side by side in one run.

Each engine gets the same network, batch and directions: the leading ones of each layer's gradient.
An engine whose cost grows with each direction is timed on a few of them and on half as many, and
its time for all is estimated, as the table says: linear in their number. An engine may take several
at a time (double backward, curvlinops), so that very few are dearer each; sampled=null measures
all. Errors are differences to double backward, relative to each layer's largest abs(h), over the
directions that both computed.

`plain` is double backward as a short script has it, with a graph of its own for each direction; our
`double_backward` shares one graph among all of them, and is what speed-ups are measured by.
"""

from __future__ import annotations

import importlib.util
import json
import platform
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field
from torch import Tensor

from analysis.curvature_core.directions import Directions, gradient_directions
from analysis.curvature_core.engines import ENGINES, choose, curvature
from analysis.curvature_core.objective import Objective, Settings, cross_entropy
from bench import options
from bench.build import ImageShape, Shape, TokenShape
from bench.errors import UserError, suggestion
from bench.files import write_atomically
from bench.provenance import device_name
from bench.setup import device_here
from bench.speed.curvature_peers import Subject, curvlinops_hessian, plain_double_backward, subject
from bench.speed.stopwatch import progress
from bench.table_writer import Table, drawn

PROG = "spectral-bench speed curvature"
PEERS = {"plain": plain_double_backward, "curvlinops": curvlinops_hessian}
ONE_BY_ONE = ("double_backward", "forward_over_reverse", "tangent", *PEERS)
EXAMPLES = (
    "model=resnet18 batch=2048 k=20 microbatch=512 autotune=true out=resnet18.json",
    "model=resnet50 batch=1024 k=20 microbatch=256 autotune=true sampled=2 out=resnet50.json",
    "model=gpt_mini batch=32 k=20 engines=auto,plain,curvlinops sampled=null out=gpt_mini.json",
    "model=vit_tiny batch=256 k=20 engines=auto,plain,curvlinops sampled=null out=vit_tiny.json",
    "model=convnet batch=64 k=5 device=cpu",
)


class CurvatureSpeedOptions(options.Options):
    """Options of the command."""

    model: str = Field("resnet18", description="A file of conf/model/.")
    batch: int = Field(2048, ge=2, description="Samples of the batch.")
    k: int = Field(20, ge=1, description="Directions a layer.")
    engines: list[str] = Field(
        ["sweep", "double_backward", "plain", "curvlinops"],
        description=f"auto, {', '.join(ENGINES)}, plain, curvlinops (its Hessian restricted to a "
        "layer; left out where it is not installed).",
    )
    sampled: int | None = Field(
        10,
        ge=2,
        description="Directions a layer on which engines whose cost grows with each are timed; "
        "null: all.",
    )
    layers: list[str] | None = Field(None, description="Layers by name; null: all matrices.")
    classes: int = Field(10, ge=2, description="Classes of images; tokens have vocabulary many.")
    size: int = Field(32, ge=4, description="Side of the images.")
    context: int = Field(256, ge=2, description="Tokens a sample.")
    vocabulary: int = Field(256, ge=2, description="Different tokens.")
    microbatch: int | Literal["auto"] = Field("auto", description="Samples a pass.")
    dtype: Literal["float32", "float64"] = Field("float32", description="TF32 is off.")
    autotune: bool = Field(False, description="Let cuDNN choose its algorithms by the clock.")
    device: str = Field("auto", description="auto, cpu, cuda.")
    rounds: int = Field(3, ge=1, description="Timed repetitions of an engine measured in full.")
    out: Path | None = Field(None, description="Write the numbers as JSON to this file, too.")


@dataclass(frozen=True)
class Row:
    """One engine's numbers; ``seconds`` are for all directions, measured or estimated."""

    engine: str
    seconds: float
    forwards: float
    peak_mib: float | None
    error: float | None
    directions: int
    how: str


class Stage:
    """Network, batch and directions, and what every engine's numbers are compared with."""

    def __init__(self, asked: CurvatureSpeedOptions, device: torch.device) -> None:
        self.asked, self.device = asked, device
        kinds: list[Shape] = [
            ImageShape(3, asked.classes, asked.size),
            TokenShape(asked.vocabulary, asked.context, asked.vocabulary),
        ]
        self.subject: Subject = subject(asked.model, asked.batch, kinds, device)
        self.layers = self._layers()
        dtype = getattr(torch, asked.dtype)
        self.settings = Settings(dtype, asked.microbatch, device=device, autotune=asked.autotune)
        self.curvatures: dict[str, dict[str, Tensor]] = {}
        started = self.now()
        self.directions = gradient_directions(
            *self._network(), self.layers, asked.k, settings=self.settings
        )
        self.direction_seconds = self.now() - started
        self.forward_seconds = self._forward()

    def _layers(self) -> list[str]:
        known = self.subject.layers
        for layer in self.asked.layers or ():
            if layer not in known:
                raise UserError(f"layers: no such layer '{layer}'; {suggestion(layer, known)}")
        return self.asked.layers or known

    def _network(self) -> tuple[Any, Any, Any]:
        return self.subject.model, cross_entropy, self.subject.batch

    def now(self) -> float:
        """Return the clock, after the device is done."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()

    def _forward(self) -> float:
        """Seconds of one forward pass of the whole batch, in the same arithmetic."""
        model, loss, batch = self._network()
        objective = Objective(model, loss, batch, self.layers, self.settings)
        times = []
        for _ in range(self.asked.rounds + 1):
            started = self.now()
            for index in range(objective.microbatches):
                with objective.part(index) as (inputs, _), torch.no_grad():
                    objective.model(inputs)
            times.append(self.now() - started)
        return statistics.median(times[1:])

    def total(self) -> int:
        """How many directions all layers have together."""
        return sum(map(len, self.directions.values()))

    def work(self, engine: str) -> Callable[[Mapping[str, Directions]], dict[str, Tensor]]:
        """Return the engine as a function of the directions."""
        model, loss, batch = self._network()
        if engine in PEERS:
            return lambda along: PEERS[engine](model, batch, along, self.settings)
        return lambda along: curvature(
            model, loss, batch, self.layers, along, engine=engine, settings=self.settings  # type: ignore[arg-type]
        )  # fmt: skip

    def measure(self, engine: str) -> Row:
        """Time one engine."""
        work, rounds = self.work(engine), self.asked.rounds
        name = self._chosen() if engine == "auto" else engine
        few = self.asked.sampled
        if self.device.type == "cuda":
            torch.cuda.empty_cache()  # what the engine before held
        estimated = name in ONE_BY_ONE and few is not None and few < self.asked.k
        if estimated:
            assert few is not None
            half = few // 2
            self._timed(work, first(self.directions, 1))  # warms up
            start, _, _ = self._timed(work, first(self.directions, half))
            some, peak, h = self._timed(work, first(self.directions, few))
            seconds = start + max(some - start, 0.0) / (few - half) * (self.asked.k - half)
            how = f"estimated from {half} and {few} of {self.asked.k} directions a layer"
        else:
            repeats = 1 if name in ONE_BY_ONE else rounds
            self._timed(work, self.directions if repeats > 1 else first(self.directions, 1))
            results = [self._timed(work, self.directions) for _ in range(repeats)]
            seconds, (_, peak, h) = statistics.median(r[0] for r in results), results[-1]
            how = f"measured, median of {repeats}"
        self.curvatures[engine] = h
        counted = sum(len(values) for values in h.values())
        label = f"auto ({name})" if engine == "auto" else engine
        return Row(label, seconds, seconds / self.forward_seconds, peak, None, counted, how)

    def _chosen(self) -> str:
        choice = choose(*self._network(), self.layers, self.directions, settings=self.settings)
        print(f"auto: {choice.engine} ({choice.reason})", flush=True)
        return choice.engine

    def _timed(
        self, work: Callable[[Mapping[str, Directions]], dict[str, Tensor]], along: Any
    ) -> tuple[float, float | None, dict[str, Tensor]]:
        """Return seconds, peak memory in MiB beyond what was there before, and h."""
        cuda = self.device.type == "cuda"
        if cuda:
            torch.cuda.reset_peak_memory_stats(self.device)
        before = torch.cuda.memory_allocated(self.device) if cuda else 0
        started = self.now()
        h = work(along)
        seconds = self.now() - started
        peak = (torch.cuda.max_memory_allocated(self.device) - before) / 2**20 if cuda else None
        return seconds, peak, h

    def error(self, engine: str, reference: str) -> float | None:
        """Return the largest difference of two engines, relative to a layer's largest abs(h)."""
        if engine == reference or reference not in self.curvatures:
            return None
        worst = 0.0
        for layer, exact in self.curvatures[reference].items():
            ours = self.curvatures[engine][layer]
            both = min(len(ours), len(exact))
            scale = exact.abs().max().clamp_min(1e-300)
            worst = max(worst, float((ours[:both] - exact[:both]).abs().max() / scale))
        return worst


def first(directions: Mapping[str, Directions], count: int) -> dict[str, Directions]:
    """Return the leading ``count`` directions of each layer."""
    return {
        layer: Directions(along.sigma[:count], along.left[:, :count], along.right[:, :count])
        for layer, along in directions.items()
    }


def measure(stage: Stage) -> list[Row]:
    """Time every engine asked for; errors are relative to double backward, else to the first."""
    engines = stage.asked.engines
    rows = []
    for engine in engines:
        try:
            rows.append(stage.measure(engine))
        except ValueError as error:
            raise UserError(f"engines={engine}: {error}") from error
        progress(f"{rows[-1].engine}: {rows[-1].seconds:.3f} s, {rows[-1].how}")
    labels = [row.engine for row in rows]
    exact = next((i for i, label in enumerate(labels) if "double_backward" in label), 0)
    reference = engines[exact]
    return [
        Row(**{**asdict(row), "error": stage.error(engine, reference)})
        for row, engine in zip(rows, engines, strict=True)
    ]


def render(rows: list[Row]) -> Table:
    """Return the rows as a table."""
    slow = next((row.seconds for row in rows if "double_backward" in row.engine), None)
    cells = [
        [
            row.engine,
            f"{row.seconds:.3f}",
            f"{row.forwards:.1f}",
            "-" if slow is None else f"{slow / row.seconds:.1f}",
            "-" if row.peak_mib is None else f"{row.peak_mib:.0f}",
            "-" if row.error is None else f"{row.error:.1e}",
            row.how,
        ]
        for row in rows
    ]
    header = ("engine", "seconds", "x forward", "speed-up", "peak MiB", "error", "how")
    return Table(header, cells, align="lrrrrrl")


def about(stage: Stage) -> dict[str, Any]:
    """Return what the numbers must be reported with."""
    model, loss, batch = stage.subject.model, cross_entropy, stage.subject.batch
    passes = Objective(model, loss, batch, stage.layers, stage.settings, copies=6)
    return {
        "model": stage.asked.model,
        "layers": len(stage.layers),
        "directions": stage.total(),
        "batch": stage.asked.batch,
        "microbatch": passes.microbatch,
        "dtype": stage.asked.dtype,
        "autotune": stage.asked.autotune,
        "forward_seconds": stage.forward_seconds,
        "directions_seconds": stage.direction_seconds,
        "device": device_name(stage.device),
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
    }


def available(engines: list[str]) -> tuple[list[str], dict[str, str]]:
    """Return the engines that can be timed here, and why not of those that can't.

    Raises:
        UserError: one that is not known, or none is left.
    """
    known = ["auto", *ENGINES, *PEERS]
    for engine in engines:
        if engine not in known:
            raise UserError(f"engines: no such engine '{engine}'; {suggestion(engine, known)}")
    skipped = {}
    if "curvlinops" in engines and importlib.util.find_spec("curvlinops") is None:
        skipped["curvlinops"] = "not installed; pip install curvlinops-for-pytorch"
    left = [engine for engine in engines if engine not in skipped]
    if not left:
        raise UserError(f"engines: nothing to time; curvlinops is {skipped['curvlinops']}")
    return left, skipped


def main(argv: list[str]) -> None:
    """Run the command."""
    asked = options.parse(
        CurvatureSpeedOptions, argv, prog=PROG, description=__doc__ or "", examples=EXAMPLES
    )
    engines, skipped = available(asked.engines)
    asked = asked.model_copy(update={"engines": engines})
    device = device_here(asked.device)
    try:
        stage = Stage(asked, device)
        rows = measure(stage)
    except torch.OutOfMemoryError as error:
        raise UserError(f"model={asked.model}: out of memory; use a smaller microbatch") from error
    facts = about(stage)
    print(", ".join(f"{key} {value}" for key, value in facts.items()))
    options.show(drawn(render(rows), "boxed"))
    print("speed-up: over double backward; peak: memory beyond network and batch, at once")
    for engine, reason in skipped.items():
        print(f"{engine}: left out, {reason}")
    if asked.out is not None:
        text = (
            json.dumps(
                {**facts, "rows": [asdict(row) for row in rows], "left_out": skipped}, indent=1
            )
            + "\n"
        )
        write_atomically(asked.out, lambda stream: stream.write(text.encode()))


if __name__ == "__main__":
    options.run(main)
