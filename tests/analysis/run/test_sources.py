"""Digests of code that runs recorded, of the old kind and the new; and the ids of archived runs."""

from __future__ import annotations

import functools
import hashlib
import io
import json
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from analysis.run import archive, frame
from analysis.run.sources import FORMER, source_digests
from bench import identity
from bench.config import RunConfig
from bench.digest import Sources, source_digest
from bench.public_names import MOVED, targets_of, with_canonical, with_current

ROOT = Path(__file__).resolve().parents[3]
TABLE: dict[str, Any] = json.loads(FORMER.read_text())
# A measured file that archived runs were told by their content, and that was not kept.
LOST = ".gpu/exponents.parquet"


@functools.cache
def archived() -> dict[str, archive.Files]:
    found: dict[str, archive.Files] = {}
    for path in sorted((ROOT / "results").rglob("*.parquet")):
        found |= archive.read(path)
    return found


def config_of(run_id: str) -> dict[str, Any]:
    return dict(json.loads(archived()[run_id]["config.json"]))


def identified(stored: dict[str, Any]) -> identity.Identity:
    kept = {key: value for key, value in stored.items() if key in RunConfig.model_fields}
    return identity.identify(RunConfig.model_validate(kept, context={"elsewhere": True}))


@pytest.fixture
def exponents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The files of exponents that archived runs name, where they name them."""
    monkeypatch.chdir(tmp_path)
    for run_id in archived():
        named = config_of(run_id)["optimizer"].get("exponents")
        if not isinstance(named, str) or Path(named).exists():
            continue
        Path(named).parent.mkdir(parents=True, exist_ok=True)
        source = archived().get(Path(named).parent.name, {}).get("exponents.parquet")
        Path(named).write_bytes(b"lost" if named == LOST else source or b"")


def of_lost(run_id: str) -> bool:
    return config_of(run_id)["optimizer"].get("exponents") == LOST


def identities() -> dict[str, tuple[str, str]]:
    found = {run_id: identified(config_of(run_id)) for run_id in archived()}
    return {run_id: (one.id, one.variant) for run_id, one in found.items()}


@pytest.mark.usefixtures("exponents")
def test_every_archived_run_keeps_its_id(monkeypatch: pytest.MonkeyPatch) -> None:
    """All; the 45 whose file of exponents was not kept have, with another, the id of before."""
    before = identities()
    assert len(before) >= 754
    stored = {run_id: (run_id, config_of(run_id)["variant"]) for run_id in before}
    different = {run_id for run_id in before if before[run_id] != stored[run_id]}
    assert different == {run_id for run_id in before if of_lost(run_id)}
    assert len(different) == 45
    others = sorted(before[run_id] for run_id in different)
    assert identity.digest(others) == "e4e58212b0"  # as named before any name had moved
    configs = {run_id: config_of(run_id) for run_id in before}
    ours = {name for one in configs.values() for name in targets_of(one)}
    for number, name in enumerate(sorted(ours)):
        monkeypatch.setitem(MOVED, name, f"bench.moved.place{number}")
    assert identities() == before
    for run_id, config in configs.items():
        renamed = with_current(config)
        assert renamed["optimizer"]["_target_"].startswith("bench.moved.")
        assert identified(renamed).id == before[run_id][0]
        assert with_canonical(renamed) == config


def optimizer_sources() -> set[tuple[str, str]]:
    """What archived runs recorded, with a target of each."""
    found = set()
    for files in archived().values():
        optimizer = json.loads(files["config.json"])["optimizer"]
        for attempt in json.loads(files["provenance.json"])["attempts"]:
            recorded = attempt["optimizer_source"]
            if isinstance(recorded, str):
                found |= {(recorded, target) for target in targets_of(optimizer)}
    return found


def test_every_old_digest_of_the_archives_is_known() -> None:
    ours = {pair for pair in optimizer_sources() if pair[1].startswith(("bench.", "optimizers."))}
    assert {digest for digest, _ in ours} >= set(TABLE)
    assert all(TABLE[digest]["parts"][target] for digest, target in ours)


@pytest.mark.parametrize("old", TABLE)
def test_the_table_is_what_history_says(old: str, tmp_path: Path) -> None:
    commit, parts = TABLE[old]["commit"], TABLE[old]["parts"]
    done = subprocess.run(
        ["git", "-C", str(ROOT), "archive", commit, *{name.split(".")[0] for name in parts}],
        capture_output=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        pytest.skip("needs the history of this repository")
    with tarfile.open(fileobj=io.BytesIO(done.stdout)) as packed:
        packed.extractall(tmp_path, filter="data")
    files = sorted((tmp_path / "optimizers").glob("*.py"))
    files = files or [tmp_path / "bench" / "competitors" / "scalable_shampoo.py"]
    whole = hashlib.sha256(b"".join(one.name.encode() + b"\0" + one.read_bytes() for one in files))
    assert whole.hexdigest()[:16] == old
    code = Sources({one.name: one for one in tmp_path.iterdir()})
    assert {target: code.digest(target) for target in parts} == parts


def test_an_old_digest_becomes_those_of_the_parts() -> None:
    first, second = "562c1be9bd6c241e", "0a08985500014538"
    muon = {
        "_target_": "optimizers.Muon",
        "params": {"_target_": "optimizers.partition.hidden_matrices"},
    }
    told = json.loads(source_digests(first, muon) or "")
    assert told == {name: TABLE[first]["parts"][name] for name in targets_of(muon)}
    assert source_digests(first, muon) == source_digests(second, muon)  # another one's code changed
    newton = {"_target_": "optimizers.SpectralNewton"}
    assert source_digests(first, newton) != source_digests(second, newton)


def test_an_unknown_digest_and_a_new_one_stay_what_they_are() -> None:
    adamw = {"_target_": "torch.optim.AdamW", "inside": {"_target_": "torch.relu"}}
    assert source_digests("f00d", adamw) == '{"torch.optim.AdamW": "f00d"}'
    paired = {"_target_": "optimizers.paired.Paired", "matrix": {"_target_": "optimizers.Muon"}}
    assert json.loads(source_digests("f00d", paired) or "") == {
        "optimizers.Muon": "f00d", "optimizers.paired.Paired": "f00d"
    }  # fmt: skip
    assert source_digests(None, adamw) is None
    new = json.dumps({"optimizers.Muon": source_digest("optimizers.Muon")})
    assert source_digests(new, {"_target_": "optimizers.Muon"}) == new


def test_frames_have_the_public_names(monkeypatch: pytest.MonkeyPatch, runs: Any) -> None:
    monkeypatch.setitem(MOVED, "torch.old.Rule", "torch.new.Rule")
    records = [
        frame.RunRecord(
            name, "done",
            runs.config() | {"optimizer": {"_target_": target, "parts": [{"_target_": target}]}},
            provenance={"optimizer_source": recorded},
        )
        for name, target, recorded in (
            ("a", "torch.old.Rule", "f00d"),
            ("b", "torch.new.Rule", {"torch.old.Rule": "f00d"}),
        )
    ]  # fmt: skip
    table = frame.frame(records)
    assert table["config.optimizer._target_"].tolist() == ["torch.old.Rule"] * 2
    assert len(set(table["config.optimizer.parts"])) == 1
    assert set(table[frame.SOURCES]) == {'{"torch.old.Rule": "f00d"}'}


def test_looking_at_runs_needs_no_torch() -> None:
    code = (
        "import sys, analysis.run.frame, analysis.table.timing; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
