"""The prepared file: made once however many ask, whole or not at all, checked when read."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.data import prepared
from bench.data.base import MissingDataError
from bench.data.images import Split
from bench.data.prepared import Prepared


def build() -> Prepared:
    stream = torch.Generator().manual_seed(0)

    def split(count: int) -> Split:
        images = torch.randint(0, 256, (count, 3, 5, 5), generator=stream).to(torch.uint8)
        return Split(images, torch.arange(count) % 3)

    return Prepared(split(50), split(20), "a test")


def test_what_is_made_is_read_back(tmp_path: Path) -> None:
    root = tmp_path / "new" / "folder"
    said = prepared.make(root, "toy", build)
    digest = build().digest
    assert said == (
        f"toy: ready, 50 training and 20 test images in {root / 'toy.pt'} "
        f"(from a test; sha256 {digest[:16]})"
    )
    found = prepared.read(root, "toy")
    for mine, theirs in ((found.train, build().train), (found.test, build().test)):
        assert torch.equal(mine.images, theirs.images) and torch.equal(mine.labels, theirs.labels)
    assert (found.source, found.digest) == ("a test", digest)


def test_the_second_time_nothing_is_done(tmp_path: Path) -> None:
    prepared.make(tmp_path, "toy", build)
    before = (tmp_path / "toy.pt").stat()

    def refuse() -> Prepared:
        raise AssertionError("it is there")

    said = prepared.make(tmp_path, "toy", refuse)
    assert said == f"toy: already in {tmp_path / 'toy.pt'}, nothing to do"
    after = (tmp_path / "toy.pt").stat()
    assert (before.st_mtime_ns, before.st_ino) == (after.st_mtime_ns, after.st_ino)


def test_the_digest_sees_every_bit_and_the_shape() -> None:
    plain = build()
    digests = {plain.digest}
    for place in ("train", "test"):
        changed = build()
        getattr(changed, place).images[3, 1, 2, 2] ^= 1
        digests.add(changed.digest)
        changed = build()
        getattr(changed, place).labels[-1] += 1
        digests.add(changed.digest)
    train = plain.train
    wider = Split(train.images.reshape(25, 6, 5, 5), train.labels[:25])
    digests.add(Prepared(wider, plain.test, "a test").digest)
    assert len(digests) == 6
    assert plain._replace(source="elsewhere").digest == plain.digest


@pytest.mark.parametrize("kind", ["truncated", "empty", "flipped", "other"])
def test_a_damaged_file_is_never_read(tmp_path: Path, kind: str) -> None:
    prepared.make(tmp_path, "toy", build)
    path = tmp_path / "toy.pt"
    content = bytearray(path.read_bytes())
    if kind == "flipped":  # a bit of an image
        place = content.find(build().train.images.numpy().tobytes()[100:140])
        assert place > 0
        content[place] ^= 1
    elif kind == "other":
        torch.save({"format": 0}, path)
        content = bytearray(path.read_bytes())
    path.write_bytes({"truncated": content[: len(content) // 2], "empty": b""}.get(kind, content))
    with pytest.raises(MissingDataError, match="damaged") as caught:
        prepared.read(tmp_path, "toy")
    message = str(caught.value)
    assert str(path) in message and prepared.command(tmp_path, "toy") in message
    assert "\n" not in message
    if kind != "flipped":  # the quick look sees that it is not whole, and makes it again
        assert "ready" in prepared.make(tmp_path, "toy", build)
        prepared.read(tmp_path, "toy")


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> Prepared:
        raise MissingDataError("no network")

    with pytest.raises(MissingDataError, match="no network"):
        prepared.make(tmp_path / "new", "toy", fail)
    with pytest.raises(MissingDataError, match="no network"):
        prepared.make(tmp_path, "toy", fail)
    assert list(tmp_path.iterdir()) == []
    assert "ready" in prepared.make(tmp_path, "toy", build)  # the lock is free


def test_what_a_killed_process_left_is_cleared(tmp_path: Path) -> None:
    (tmp_path / ".toy.pt.123.tmp").write_bytes(b"half")
    (tmp_path / ".toys.pt.123.tmp").write_bytes(b"another's")
    prepared.make(tmp_path, "toy", build)
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        ".toys.pt.123.tmp",
        "toy.pt",
    ]


def test_an_absent_dataset_gives_the_command(tmp_path: Path) -> None:
    root = tmp_path / "my data"
    with pytest.raises(MissingDataError) as caught:
        prepared.read(root, "toy")
    assert f"spectral-bench prepare dataset=toy data_dir='{root}'" in str(caught.value)
    assert not root.exists()


# Started in a process of its own, which forks before it has any thread.
SIXTEEN = """
import multiprocessing, os, sys, time
from pathlib import Path
import torch
from bench.data import prepared
from bench.data.images import Split

root = Path(sys.argv[1])

def build():
    with (root / "builds").open("a") as log:
        log.write(f"{os.getpid()} ")
    time.sleep(1)
    images = torch.zeros(9, 1, 4, 4, dtype=torch.uint8)
    return prepared.Prepared(*[Split(images, torch.arange(9))] * 2, "a test")

def work(number, ready):
    ready.wait()
    (root / f"said{number}").write_text(prepared.make(root, "toy", build))
    assert len(prepared.read(root, "toy").train) == 9

context = multiprocessing.get_context("fork")
ready = context.Barrier(16)
workers = [context.Process(target=work, args=(number, ready)) for number in range(16)]
for worker in workers:
    worker.start()
for worker in workers:
    worker.join(timeout=60)
print([worker.exitcode for worker in workers])
"""


@pytest.mark.slow
def test_sixteen_processes_make_one_preparation(tmp_path: Path) -> None:
    command = [sys.executable, "-c", SIXTEEN, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    assert done.stdout.splitlines()[-1] == str([0] * 16)
    assert len((tmp_path / "builds").read_text().split()) == 1
    said = [(tmp_path / f"said{number}").read_text() for number in range(16)]
    assert sorted(": ready, " in line for line in said) == [False] * 15 + [True]
    assert sum("nothing to do" in line for line in said) == 15
