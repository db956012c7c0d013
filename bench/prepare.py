"""Get a dataset's files: ``python -m bench.prepare dataset=cifar10 [data_dir=data]``.

The only place that downloads data; a run never does. A dataset whose loader's module has a
function ``prepare(root, **options) -> str`` is prepared by it; one without needs no files.
"""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from pydantic import Field

from bench import options, paths
from bench.errors import UserError, suggestion


def prepare(dataset: str, root: Path, folder: Path | None = None) -> str:
    """Make ``dataset`` ready in ``root``; return in one line what was done.

    Args:
        dataset: the name of a file in conf/dataset/.
        root: the data folder, created where needed.
        folder: the folder of dataset YAMLs; by default conf/dataset/.

    Raises:
        UserError: no such dataset.
        ValueError: its files cannot be had; the text says how to get them by hand.
    """
    folder = folder or paths.conf_dir() / "dataset"
    names = [path.stem for path in folder.glob("*.yaml")]
    if dataset not in names:
        raise UserError(f"dataset={dataset}: no such dataset; {suggestion(dataset, names)}")
    loaded = OmegaConf.to_container(OmegaConf.load(folder / f"{dataset}.yaml"))
    own = cast("dict[str, Any]", loaded)
    module = importlib.import_module(str(own.pop("_target_")).rpartition(".")[0])
    if not hasattr(module, "prepare"):
        return f"{dataset}: nothing is needed, the images are embedded"
    return str(module.prepare(root, **own))


class PrepareOptions(options.Options):
    """Options of the command."""

    dataset: str = Field(description="A file of conf/dataset/, for example cifar10.")
    data_dir: Path = Field(Path("data"), description="Where the dataset goes, as in bench.train.")


def main(argv: list[str]) -> None:
    """Run the command."""
    asked = options.parse(
        PrepareOptions,
        argv,
        prog="python -m bench.prepare",
        description="Download a dataset into the data folder, unless it is there already.",
        examples=("dataset=cifar10", "dataset=fashion_mnist data_dir=/scratch/data"),
    )
    try:
        print(prepare(asked.dataset, asked.data_dir.expanduser()))
    except ValueError as error:
        raise UserError(str(error)) from error


if __name__ == "__main__":
    options.run(main)
