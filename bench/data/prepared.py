"""A prepared dataset: one file of tensors with their checksum, made once whoever asks.

`make` holds a lock while it builds, so that of many processes one does the work and the others
wait for it; the file appears whole or not at all. `read` checks what it reads.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from bench.data.base import MissingDataError
from bench.data.images import Split
from bench.files import write_atomically

_FORMAT = 1


class Prepared(NamedTuple):
    """The publisher's two splits, and, as text, where they were."""

    train: Split
    test: Split
    source: str

    @property
    def origin(self) -> str:
        """Where they were and their checksum, for the record of a run."""
        return f"{self.source}, sha256 {self.digest}"

    @property
    def digest(self) -> str:
        """SHA-256 of all images and labels."""
        whole = hashlib.sha256()
        for split in (self.train, self.test):
            for tensor in (split.images, split.labels):
                whole.update(str(tuple(tensor.shape)).encode())
                whole.update(tensor.contiguous().numpy().data)
        return whole.hexdigest()


def path_of(root: Path, name: str) -> Path:
    """Return where the prepared dataset lies."""
    return root / f"{name}.pt"


def command(root: Path, name: str) -> str:
    """Return the command that prepares the dataset."""
    return f"spectral-bench prepare dataset={name} data_dir={shlex.quote(str(root))}"


def make(root: Path, name: str, build: Callable[[], Prepared]) -> str:
    """Build and store the dataset unless it is there; return what was done, in a line.

    Args:
        root: the data folder, created where needed.
        name: the dataset's.
        build: gets the splits, from wherever; called at most once, under the lock.
    """
    path = path_of(root, name)
    return once(path, name, lambda: _is_there(path), lambda: _store(path, name, build()))


def once(path: Path, name: str, is_there: Callable[[], bool], store: Callable[[], str]) -> str:
    """Call ``store`` unless ``path`` is there, in one process at a time; return what was done."""
    if not is_there():  # looked at without the lock first: another may hold it for minutes
        with _locked(path.parent / f".{name}.lock"):
            if not is_there():
                for torn in path.parent.glob(f".{path.name}.*.tmp"):  # of a killed process
                    torn.unlink(missing_ok=True)
                return store()
    return f"{name}: already in {path}, nothing to do"


def read(root: Path, name: str) -> Prepared:
    """Return the prepared dataset, its checksum verified.

    Raises:
        MissingDataError: it is absent or damaged (the message has the command).
    """
    path = path_of(root, name)
    if not path.is_file():
        raise MissingDataError(
            f"dataset {name} is not in {root}: get it with: {command(root, name)}"
        )
    try:
        held = _load(path, mmap=False)
        splits = [Split(held[f"{k}_images"], held[f"{k}_labels"]) for k in ("train", "test")]
        prepared = Prepared(splits[0], splits[1], str(held["source"]))
        if prepared.digest != held["digest"]:
            raise ValueError("its checksum is wrong")
    except Exception as error:  # a damaged file fails in many ways; all mean "make it again"
        raise MissingDataError(
            f"{path} is damaged ({brief(error)}): delete it and get it again with: "
            f"{command(root, name)}"
        ) from error
    return prepared


def brief(error: Exception) -> str:
    """Return the last line of an error's text."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def _store(path: Path, name: str, prepared: Prepared) -> str:
    train, test, source = prepared
    held = {
        "format": _FORMAT,
        "train_images": train.images,
        "train_labels": train.labels,
        "test_images": test.images,
        "test_labels": test.labels,
        "source": source,
        "digest": prepared.digest,
    }
    write_atomically(path, lambda stream: torch.save(held, stream))
    return (
        f"{name}: ready, {len(train)} training and {len(test)} test images in {path} "
        f"(from {source}; sha256 {prepared.digest[:16]})"
    )


def _is_there(path: Path) -> bool:
    """Return whether a complete file is there; quickly, so not whether each bit is right."""
    try:
        return path.is_file() and bool(_load(path, mmap=True)["digest"])
    except Exception:  # cut short, or of another format: it is made again
        return False


def _load(path: Path, mmap: bool) -> dict[str, Any]:
    held = torch.load(path, mmap=mmap, weights_only=True)
    if not isinstance(held, dict) or held.get("format") != _FORMAT:
        raise ValueError("it is of another format")
    return held


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on ``path``; a process that ends, however, lets go of it.

    Afterwards the file is gone, and so is a folder that was made for it and stayed empty.
    """
    ours, made = False, not path.parent.exists()
    while not ours:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as stream:
            try:
                fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                print(f"waiting for another process that has {path}", flush=True)
                fcntl.flock(stream, fcntl.LOCK_EX)
            # Whoever had it took the file away; then another one may be locked by now.
            ours = path.exists() and path.stat().st_ino == os.fstat(stream.fileno()).st_ino
            if not ours:
                continue
            try:
                yield
            finally:
                path.unlink()
                with suppress(OSError):  # something is in it
                    if made:
                        path.parent.rmdir()
