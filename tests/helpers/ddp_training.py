"""Train a small network with each optimizer as one of several processes, and save its weights.

python ddp_training.py <rank> <processes> <folder>

Each process sees its own part of one batch. <folder>/exponents.parquet must be there; the weights
go to <folder>/<processes>-<rank>.pt: by optimizer, then by parameter. With one process nothing is
distributed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from optimizers import Muon, ScalarSpectralAdam, SpectralNewton
from optimizers.kfac import KFAC, layers
from optimizers.partition import by_layer, hidden_matrices

STEPS = 4


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.Tanh(), nn.Flatten(), nn.Linear(64, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def builders(exponents: Path) -> dict[str, Callable[[nn.Module], torch.optim.Optimizer]]:
    return {
        "spectral_newton": lambda model: SpectralNewton(hidden_matrices(model)),
        "muon": lambda model: Muon(hidden_matrices(model)),
        "scalar_spectral_adam": lambda model: ScalarSpectralAdam(
            by_layer(model), lr=0.01, exponents=exponents
        ),
        "kfac": lambda model: KFAC(layers(model), inverse_every=2),
    }


def batches(rank: int, processes: int) -> Iterator[tuple[Tensor, Tensor]]:
    draw = torch.Generator().manual_seed(1)
    for _ in range(STEPS):
        inputs = torch.randn(12, 2, 6, 6, generator=draw)
        labels = torch.randint(3, (12,), generator=draw)
        yield inputs.chunk(processes)[rank], labels.chunk(processes)[rank]


def main(rank: int, processes: int, folder: Path) -> None:
    torch.set_num_threads(1)
    if processes > 1:
        os.environ["GLOO_SOCKET_IFNAME"] = "lo"
        dist.init_process_group(
            "gloo",
            init_method=f"file://{folder}/meeting",
            rank=rank,
            world_size=processes,
            timeout=timedelta(seconds=200),
        )
    weights = {}
    for name, build in builders(folder / "exponents.parquet").items():
        model = network()
        wrapped = DistributedDataParallel(model) if processes > 1 else model
        optimizer = build(wrapped)
        for inputs, labels in batches(rank, processes):
            optimizer.zero_grad()
            F.cross_entropy(wrapped(inputs), labels).backward()
            optimizer.step()
        weights[name] = model.state_dict()
    torch.save(weights, folder / f"{processes}-{rank}.pt")
    if processes > 1:
        dist.barrier()  # lets gloo's threads free what they hold, which takes Python's lock
        dist.destroy_process_group()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
