"""Get a dataset ready: ``spectral-bench prepare dataset=cifar10 [data_dir=data] [source=...]``.

The only place that downloads data; a run never does. A dataset whose loader's module has a
function ``prepare(root, **options) -> str`` is prepared by it; one without needs no files.
"""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from pydantic import Field

from bench import files, options
from bench.build import companion
from bench.errors import UserError, suggestion


def prepare(
    dataset: str, root: Path, source: Path | None = None, folder: Path | None = None
) -> str:
    """Make ``dataset`` ready in ``root``; return in one line what was done.

    Args:
        dataset: the name of a file in conf/dataset/.
        root: the data folder, created where needed.
        source: where its files lie already, for datasets that have files.
        folder: the folder of dataset YAMLs; by default conf/dataset/.

    Raises:
        UserError: no such dataset, or one that needs no ``source``.
        ValueError: its files cannot be had; the text says how to get them by hand.
    """
    folder = folder or files.conf_dir() / "dataset"
    names = [path.stem for path in folder.glob("*.yaml")]
    if dataset not in names:
        raise UserError(f"dataset={dataset}: no such dataset; {suggestion(dataset, names)}")
    loaded = OmegaConf.to_container(OmegaConf.load(folder / f"{dataset}.yaml"))
    own = cast("dict[str, Any]", loaded)
    function = companion(str(own.pop("_target_")), "prepare")
    accepted = inspect.signature(function).parameters if function else {}
    if source is not None and "source" not in accepted:
        raise UserError(f"source={source}: dataset={dataset} needs no files; leave source out")
    if function is None:
        return f"{dataset}: nothing is needed, the images are embedded"
    if source is not None:
        if not source.exists():
            raise UserError(f"source={source}: there is no such file or folder")
        own["source"] = source
    return str(function(root, **own))


DESCRIPTION = """
Make a dataset ready in the data folder: one file of tensors, from files that are found in the
data folder, in source or in a system package, or else downloaded. A second call does nothing, and
of several at once one does the work.
"""


class PrepareOptions(options.Options):
    """Options of the command."""

    dataset: str = Field(description="A file of conf/dataset/, for example cifar10.")
    data_dir: Path = Field(Path("data"), description="Where the dataset goes, as in bench.train.")
    source: Path | None = Field(
        None, description="Files that are already there: a torchvision folder, a zip, ImageNet."
    )


def main(argv: list[str]) -> None:
    """Run the command."""
    asked = options.parse(
        PrepareOptions,
        argv,
        prog="spectral-bench prepare",
        description=DESCRIPTION,
        examples=(
            "dataset=cifar10",
            "dataset=cifar100 data_dir=/scratch source=~/torchvision",
        ),
    )
    try:
        source = None if asked.source is None else asked.source.expanduser()
        print(prepare(asked.dataset, asked.data_dir.expanduser(), source))
    except ValueError as error:
        raise UserError(str(error)) from error


if __name__ == "__main__":
    options.run(main)
