"""Get a dataset's files: ``python -m bench.prepare dataset=cifar10 [data_dir=data]``.

The only place that downloads data; a run never does. A dataset whose loader's module has a
function ``prepare(root, **options) -> str`` is prepared by it; one without needs no files.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf

from bench import paths
from bench.errors import UserError, suggestion

USAGE = "usage: python -m bench.prepare dataset=<name> [data_dir=data]"


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
    options = cast("dict[str, Any]", loaded)
    module = importlib.import_module(str(options.pop("_target_")).rpartition(".")[0])
    if not hasattr(module, "prepare"):
        return f"{dataset}: nothing is needed, the images are embedded"
    return str(module.prepare(root, **options))


def _arguments(words: Sequence[str]) -> dict[str, str]:
    known = ("dataset", "data_dir")
    arguments = {"data_dir": "data"}
    for word in words:
        key, equals, value = word.partition("=")
        if not equals or not value:
            raise UserError(f"{word!r} is not of the form key=value; {USAGE}")
        if key not in known:
            raise UserError(f"{key}: unknown key; {suggestion(key, known)}")
        arguments[key] = value
    if "dataset" not in arguments:
        raise UserError(f"which dataset? {USAGE}")
    return arguments


def main(words: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status: 0, or 1 after one line on standard error."""
    words = sys.argv[1:] if words is None else words
    if "--help" in words or "-h" in words:
        print(f"{USAGE}\nDownloads the dataset into the data folder, unless it is there already.")
        return 0
    try:
        arguments = _arguments(words)
        print(prepare(arguments["dataset"], Path(arguments["data_dir"]).expanduser()))
    except (UserError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
