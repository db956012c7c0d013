"""Where conf/ and sweeps/ are found."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench import paths

ROOT = Path(__file__).resolve().parents[2]


def test_a_checkout_is_found_from_any_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert paths.home() == ROOT
    assert paths.conf_dir() == ROOT / "conf"
    assert (paths.home() / "sweeps").is_dir()


def test_an_installation_finds_what_was_shipped_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shipped = tmp_path / "spectral_bench_shipped"
    (shipped / "conf").mkdir(parents=True)
    (shipped / "conf" / "train.yaml").write_text("seed: 0\n")
    (tmp_path / "conf").mkdir()  # some other package's folder, without our train.yaml
    monkeypatch.setattr(paths, "_SITE", tmp_path)
    assert paths.home() == shipped
    assert paths.conf_dir() == shipped / "conf"


def test_a_checkout_goes_before_shipped_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for folder in (tmp_path, tmp_path / "spectral_bench_shipped"):
        (folder / "conf").mkdir(parents=True)
        (folder / "conf" / "train.yaml").write_text("seed: 0\n")
    monkeypatch.setattr(paths, "_SITE", tmp_path)
    assert paths.home() == tmp_path


def test_an_incomplete_installation_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paths, "_SITE", tmp_path)
    with pytest.raises(FileNotFoundError, match="reinstall spectral-bench") as caught:
        paths.conf_dir()
    assert str(tmp_path) in str(caught.value)
