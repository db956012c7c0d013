"""The corpus of Python's own library: which files, how they are split, and that it stays."""

from __future__ import annotations

import hashlib
import platform
import sysconfig
from pathlib import Path

import pytest
import torch

from bench import config, prepare
from bench.build import TokenShape
from bench.data import python_source
from bench.data.base import SPLITS
from bench.data.tokens import entropies
from bench.errors import UserError

LIBRARY = Path(sysconfig.get_path("stdlib"))
NOWHERE = Path("no/such/folder")


def test_the_files_are_the_librarys_without_tests_and_packages() -> None:
    found = python_source.files()
    assert len(found) > 400 and list(found) == sorted(set(found))
    assert {"ast.py", "asyncio/base_events.py", "json/decoder.py", "__future__.py"} <= set(found)
    assert all((LIBRARY / file).is_file() for file in found)
    parts = {part for file in found for part in Path(file).parts}
    assert not parts & {"test", "tests", "site-packages", "__pycache__", "idlelib", "ensurepip"}


def test_a_folder_is_searched_by_the_names_of_library_modules(tmp_path: Path) -> None:
    names = ["ast.py", "json/decoder.py", "json/tests/x.py", "numpy/core.py", "site.py"]
    names += ["_sysconfigdata__linux_x86_64-linux-gnu.py", "ast.txt", "test/ast.py"]
    for name in names:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x")
    assert python_source.files(tmp_path) == ("ast.py", "json/decoder.py")


def test_each_file_is_in_exactly_one_split_and_whole() -> None:
    data = python_source.load(NOWHERE, 0)
    for split in SPLITS:
        tokens: torch.Tensor = getattr(data, split)
        assert tokens.dtype == torch.uint8
        texts = [
            (LIBRARY / file).read_bytes() + b"\0"
            for file in python_source.files()
            if python_source.split_of(file) == split
        ]
        assert tokens.numpy().tobytes() == b"".join(texts)
    assert len(data.val) > 100_000 and len(data.test) > 100_000
    assert len(data.train) > 10 * (len(data.val) + len(data.test)) / 2


def test_the_split_of_a_file_stays() -> None:
    splits = {"ast.py": "train", "token.py": "val", "sched.py": "val", "json/decoder.py": "train"}
    assert {file: python_source.split_of(file) for file in splits} == splits
    many = [python_source.split_of(f"module{k}.py") for k in range(5000)]
    for name in ("val", "test"):
        assert abs(many.count(name) / 5000 - 0.04) < 0.014  # five standard errors


def test_neither_seed_nor_folder_matter() -> None:
    first, second = python_source.load(NOWHERE, 0), python_source.load(Path(), 1)
    assert all(torch.equal(getattr(first, name), getattr(second, name)) for name in SPLITS)
    assert first.shape == TokenShape(256, 256, 256) == python_source.shape()
    assert first.origin == second.origin
    assert first.origin is not None
    content = b"".join(getattr(first, name).numpy().tobytes() for name in SPLITS)
    assert first.origin.endswith(f"sha256 {hashlib.sha256(content).hexdigest()}")
    short = python_source.load(NOWHERE, 0, context_length=16)
    assert short.shape == python_source.shape(context_length=16) == TokenShape(256, 16, 256)


def test_another_python_is_refused() -> None:
    running = platform.python_version()
    python_source.load(NOWHERE, 0, python=running)
    with pytest.raises(ValueError, match=r"python=2\.7\.18 .* but this is Python 3"):
        python_source.load(NOWHERE, 0, python="2.7.18")


def test_the_config_holds_the_version() -> None:
    model = next(iter(config.components.models_for(TokenShape)), None)
    if model is None:
        pytest.skip("no model in conf/model/ takes tokens")
    run = config.load(["dataset=python_source", f"model={model}", "tracker=none"])
    assert run.dataset["python"] == platform.python_version()


def test_images_are_not_for_it_and_it_is_not_for_image_models() -> None:
    with pytest.raises(UserError) as caught:
        config.load(["dataset=python_source", "model=convnet"])
    assert str(caught.value).startswith(
        "model=convnet takes images, dataset=python_source gives tokens; choose model="
    )


def test_a_context_below_one_byte_is_refused() -> None:
    with pytest.raises(ValueError, match="context_length must be 1 or more"):
        python_source.shape(context_length=0)


def test_prepare_prints_the_entropies(capsys: pytest.CaptureFixture[str]) -> None:
    prepare.main(["dataset=python_source"])
    said = capsys.readouterr().out
    found = entropies(python_source.load(NOWHERE, 0).val, 256)
    assert f"unigram {found.unigram:.4f}, bigram {found.bigram:.4f}" in said
    assert f"Python {platform.python_version()}" in said and said.count("\n") == 1
    assert 1.5 < found.bigram < found.unigram < 3.5  # source text, in nats a byte
