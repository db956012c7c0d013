"""Language modelling on bytes: the source of the running Python's own standard library.

Always present and never downloaded. The corpus is every .py file of the modules that CPython
lists as its standard library on any platform, except their tests (which some distributions leave
out) and modules that distributions package apart or generate. It is a property of the Python
version, which therefore belongs to the config (``python``); distributors may patch single files,
so the digest of the content is part of `describe`.

Splits are by file, by a hash of its path: fixed, whatever the run's seed.
"""

from __future__ import annotations

import functools
import hashlib
import platform
import sys
import sysconfig
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from bench.build import TokenShape
from bench.data.base import SPLITS, SplitName
from bench.data.tokens import TokenStream, check_context, entropies

VOCAB_SIZE = 256
# Folders that are tests, or that some distributions leave out.
_LEFT_OUT = {"test", "tests", "idle_test", "macholib"}
# Modules that are packaged apart by distributions, made anew by each build, or text (pydoc_data).
_APART = {"distutils", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site", "sysconfig"}
_APART |= {"tkinter", "turtle", "turtledemo", "venv"}
_HELD_OUT = 0.04  # of the files, for validation and again for the test
_END = b"\0"  # of a file


def shape(context_length: int = 256, **_options: object) -> TokenShape:
    """Return the shape of the windows."""
    check_context(context_length)
    return TokenShape(VOCAB_SIZE, context_length, VOCAB_SIZE)


def load(
    root: Path,  # noqa: ARG001 (every dataset is called with it; this one needs no folder)
    seed: int,  # noqa: ARG001 (the splits are by file)
    *,
    context_length: int = 256,
    task: Literal["lm"] = "lm",  # noqa: ARG001 (what the dataset is for)
    python: str | None = None,
) -> TokenStream:
    """Return the corpus as one stream of bytes a split, each file ended by a zero byte.

    Args:
        root: the data folder, unused.
        seed: the run's seed, unused.
        context_length: bytes a window.
        task: language modelling.
        python: the Python version whose library is meant; None: the running one's.

    Raises:
        ValueError: another Python is running, or a window does not fit into a split.
    """
    running = platform.python_version()
    if python not in (None, running):
        raise ValueError(
            f"python={python} is the library wanted, but this is Python {running}: run it with "
            f"Python {python}, or leave dataset.python out"
        )
    train, val, test = (_stream(split) for split in SPLITS)
    return TokenStream(
        "python_source", VOCAB_SIZE, context_length, train, val, test, _origin(running)
    )


def prepare(root: Path, **_options: object) -> str:  # noqa: ARG001 (needs no folder)
    """Return a line that describes the corpus; nothing has to be made."""
    return f"python_source: nothing is needed; {describe()}"


def describe() -> str:
    """Say which corpus this is, how long its splits are, and its byte entropies."""
    sizes = ", ".join(f"{len(_stream(split)):,} {split}" for split in SPLITS)
    measured = entropies(_stream("val"), VOCAB_SIZE)
    return (
        f"{_origin(platform.python_version())}; {len(files())} files, {sizes} bytes; validation "
        f"entropies in nats a byte: unigram {measured.unigram:.4f}, bigram {measured.bigram:.4f}"
    )


def _origin(version: str) -> str:
    whole = hashlib.sha256()
    for split in SPLITS:
        whole.update(_stream(split).numpy().data)
    return f"library of Python {version}, sha256 {whole.hexdigest()}"


@functools.cache
def files(folder: Path | None = None) -> tuple[str, ...]:
    """Return the corpus's files, relative to the library's ``folder``, sorted."""
    folder = folder or _library()
    wanted = set(sys.stdlib_module_names) - _APART
    paths = []
    for path in folder.rglob("*.py"):
        parts = path.relative_to(folder).with_suffix("").parts
        if parts[0] in wanted and not parts[0].startswith("_sysconfigdata"):
            paths += [] if _LEFT_OUT & set(parts) else [path.relative_to(folder).as_posix()]
    return tuple(sorted(paths))


def split_of(file: str) -> SplitName:
    """Return the split of a file, from its path alone."""
    place = int.from_bytes(hashlib.sha256(file.encode()).digest()[:8], "big") / 2**64
    if place < _HELD_OUT:
        return "val"
    return "test" if place < 2 * _HELD_OUT else "train"


@functools.cache
def _stream(split: SplitName) -> Tensor:
    """Return a split's bytes, uint8 [N]; not to be changed."""
    folder = _library()
    content = (folder.joinpath(file).read_bytes() for file in files() if split_of(file) == split)
    joined = b"".join(text + _END for text in content)
    return torch.frombuffer(bytearray(joined), dtype=torch.uint8)


def _library() -> Path:
    return Path(sysconfig.get_path("stdlib"))
