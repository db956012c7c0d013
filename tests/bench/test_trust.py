"""What a stored config may name: nothing from a run folder is code."""

from __future__ import annotations

import ast
import importlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from trained_run import train

import bench
from analysis import curvature, hessian_blocks, landscape
from analysis.run import archive
from bench import config, trust
from bench import files as paths
from bench.errors import UserError
from bench.parts import restore
from bench.public_names import targets_of

Tree = dict[str, Any]
COMMANDS = {"curvature": curvature, "landscape": landscape, "hessian_blocks": hessian_blocks}
ROOT = Path(str(bench.__file__)).parent.parent
# Imported or called, it leaves a mark beside itself.
EVIL = """
from pathlib import Path
MARK = Path(__file__).with_name("mark")
MARK.touch()
def call(*_, **__):
    MARK.touch()
"""
LAB = """
import os
import torch
from torch import nn
from torch.hub import load
class Thing(torch.optim.SGD): ...
class Net(nn.Module): ...
def built() -> nn.Module: return Net()
def groups(model): return model.parameters()
class Runner:
    def __init__(self, command): os.system(command)
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    words = ["model=mlp", "model.hidden=[8]", "trainer.epochs=1", "trainer.batch_size=400"]
    return train(tmp_path_factory.mktemp("work"), *words, "trainer.accounting=false")


@pytest.fixture
def run(trained: Path, tmp_path: Path) -> Path:
    return shutil.copytree(trained, tmp_path / trained.name)


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of modules: ``evil_parts`` leaves a mark, ``lab_parts`` is honest."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "evil_parts.py").write_text(EVIL)
    (folder / "hubconf.py").write_text(EVIL)  # for torch.hub
    (folder / "lab_parts.py").write_text(LAB)
    monkeypatch.syspath_prepend(str(folder))
    for name in ("evil_parts", "lab_parts", "hubconf"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    importlib.invalidate_caches()
    return folder


def changed(run: Path, where: str, value: Any) -> Path:
    """Put ``value`` at a dotted place of the stored config."""
    file = run / "config.json"
    stored = json.loads(file.read_text())
    branch: Any = stored
    *above, last = where.split(".")
    for key in above:
        branch = branch.setdefault(key, {})
    branch[last] = value
    file.write_text(json.dumps(stored))
    return run


def hub(modules: Path) -> Tree:
    return {"_target_": "torch.hub.load", "repo_or_dir": str(modules), "model": "call",
            "source": "local"}  # fmt: skip


def copy(modules: Path) -> Tree:
    return {"_target_": "shutil.copyfile", "src": str(modules / "evil_parts.py"),
            "dst": str(modules / "mark")}  # fmt: skip


def refused(run: Path, *words: str, command: str = "curvature") -> str:
    """Return the one line by which a command refuses a run."""
    with pytest.raises(UserError) as caught:
        COMMANDS[command].main([f"run={run}", "batch=50", *words])
    line = str(caught.value)
    assert "\n" not in line
    return line


# -- foreign configs ------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("where", ["model.hidden", "dataset.extra", "optimizer.params", "model"])
@pytest.mark.parametrize("gadget", [hub, copy])
def test_every_command_refuses_code_in_a_run_folder(
    run: Path, modules: Path, command: str, where: str, gadget: Callable[[Path], Tree]
) -> None:
    line = refused(changed(run, where, gadget(modules)), command=command)
    assert f"{run / 'config.json'}: {where}._target_ names '{gadget(modules)['_target_']}'" in line
    assert not (modules / "mark").exists()


def test_the_command_itself_ends_with_one_line_and_status_2(run: Path, modules: Path) -> None:
    changed(run, "model.hidden", [hub(modules)])
    done = subprocess.run(
        [sys.executable, "-m", "analysis.curvature", f"run={run}"],
        capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(modules)])},
    )  # fmt: skip
    assert (done.returncode, done.stdout) == (2, "")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"error: {run / 'config.json'}: model.hidden[0]._target_ names")
    assert "'torch.hub.load'" in line
    assert not (modules / "mark").exists()


def calling(target: Any, **more: Any) -> Tree:
    return {"_target_": target, **more}


HOSTILE: dict[str, tuple[str, Any, str]] = {
    "a module that acts when imported": ("model", calling("evil_parts.call"), "evil_parts.call"),
    "a module, and no part of it": ("model", calling("evil_parts"), "evil_parts"),
    "partial": ("model.hidden", calling("evil_parts.call", _partial_=True), "evil_parts.call"),
    "in a list in a list": ("model.hidden", [[8], [calling("evil_parts.call")]], "evil_parts.call"),
    "positional": (
        "dataset._args_", [calling("evil_parts.call", _args_=[1])], "evil_parts.call"
    ),
    "not recursive": (
        "model.hidden", calling("torch.nn.Linear", _recursive_=False, a=calling("os.system")),
        "os.system",
    ),
    "of the schedule": ("schedule.warmup", calling("evil_parts.call"), "evil_parts.call"),
    "of the tracker": ("tracker", calling("evil_parts.call"), "evil_parts.call"),
    "of the callback": ("trainer.curvature", calling("evil_parts.call"), "evil_parts.call"),
    "of a key that nobody reads": ("more.of.it", calling("evil_parts.call"), "evil_parts.call"),
    "hydra, calling": ("model", calling("hydra.utils.call"), "hydra.utils.call"),
    "hydra, finding": (
        "model", calling("hydra.utils.get_method", path="evil_parts.call"),
        "hydra.utils.get_method",
    ),
    "hydra, building": (
        "model", calling("hydra.utils.instantiate", config={}), "hydra.utils.instantiate"
    ),
    "exec": ("model", calling("builtins.exec", _args_=["import evil_parts"]), "builtins.exec"),
    "a system call": ("model.hidden", calling("os.system", command="true"), "os.system"),
    "a process": ("model.hidden", calling("subprocess.run", args=["true"]), "subprocess.run"),
    "a partial of the library": (
        "model.hidden", calling("functools.partial", _args_=[calling("os.getcwd")]), "os.getcwd"
    ),
    "torch's pickles": ("model", calling("torch.load", f="x"), "torch.load"),
    "torch's compiler": (
        "model", calling("torch.utils.cpp_extension.load"), "torch.utils.cpp_extension.load"
    ),
    "numpy's pickles": ("model", calling("numpy.load", allow_pickle=True), "numpy.load"),
    "our writer of files": ("model", calling("bench.files.write_json"), "bench.files.write_json"),
    "our download": ("dataset", calling("bench.data.vision.prepare"), "bench.data.vision.prepare"),
    "our command": ("model", calling("analysis.archive.main", argv=[]), "analysis.archive.main"),
    "our launcher": (
        "model", calling("hydra_plugins.spectral_bench.LocalLauncher"),
        "hydra_plugins.spectral_bench.LocalLauncher",
    ),
    "from torch.nn to elsewhere": (
        "model", calling("torch.nn.modules.module.torch.hub.load"),
        "torch.nn.modules.module.torch.hub.load",
    ),
    "a function of torch.nn": (
        "model", calling("torch.nn.init.zeros_"), "torch.nn.init.zeros_"
    ),
    "through globals": (
        "model", calling("torch.nn.Module.__init__.__globals__"),
        "torch.nn.Module.__init__.__globals__",
    ),
    "from a known package to elsewhere": (
        "optimizer", calling("pytorch_optimizer.torch.hub.load"),
        "pytorch_optimizer.torch.hub.load",
    ),
    "a name that is nearly one": ("model", calling("torch.nn.Linear\nx"), r"torch.nn.Linear\nx"),
    "other letters": ("model", calling("torch.ոո.Linear"), "torch.ոո.Linear"),
    "a relative name": ("model", calling(".os.system"), ".os.system"),
    "a name that is none": ("model", calling(["os", "system"]), "['os', 'system']"),
    "a name that is a config": ("model", calling(calling("os.system")), "os.system"),
    "a name to be made up": ("model", calling("${oc.env:TARGET}"), "${oc.env:TARGET}"),
    "a value of the machine": ("model.hidden", ["${oc.env:HOME}"], "${oc.env:HOME}"),
    "a value of ours": ("data_dir", "${bench_home:}", "${bench_home:}"),
    "a config to be made up": (
        "model.hidden", "${oc.create:{_target_:os.system}}", "${oc.create:{_target_:os.system}}"
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", HOSTILE)
def test_nothing_of_a_hostile_config_is_imported_or_called(
    run: Path, modules: Path, monkeypatch: pytest.MonkeyPatch, case: str
) -> None:
    where, value, told = HOSTILE[case]
    monkeypatch.setenv("TARGET", "evil_parts.call")
    line = refused(changed(run, where, value))
    assert str(run / "config.json") in line
    assert told in line
    assert "evil_parts" not in sys.modules
    assert not (modules / "mark").exists()


def test_a_name_may_be_long_and_a_config_deep(run: Path) -> None:
    assert len(refused(changed(run, "model._target_", f"os.{'x' * 9999}"))) < 600 + len(str(run))
    deep: Any = calling("os.system")
    for _ in range(300):
        deep = [{"a": deep}]
    assert "names 'os.system'" in refused(changed(run, "model.hidden", deep))


@pytest.mark.parametrize(
    ("where", "value", "says"),
    [
        ("model", "bench.models.mlp.MLP", "config.json: model: "),
        ("trainer.epochs", "many", "config.json: trainer.epochs: "),
        ("model", {"_target_": "bench.schedules.constant", "total_steps": 3}, "model: "),
        ("dataset", {"_target_": "torch.nn.Identity"}, "Identity gives no data"),
        ("model.hidden", [9], "its checkpoint does not fit the network"),
    ],
)
def test_a_config_that_is_only_wrong_is_refused_in_one_line(
    run: Path, where: str, value: Any, says: str
) -> None:
    assert says in refused(changed(run, where, value))


# -- honest ones ----------------------------------------------------------------------------------


def test_a_run_of_ones_own_is_restored(run: Path) -> None:
    assert restore(run).step > 0


def test_every_archived_run_may_be_restored() -> None:
    targets: set[str] = set()
    for path in sorted((ROOT / "results").glob("*.parquet")):
        for files in archive.read(path).values() if archive.is_archive(path) else ():
            stored = json.loads(files["config.json"])
            targets.update(targets_of(stored))
    assert len(targets) > 10
    trust.check({"model": [calling(target) for target in sorted(targets)]}, "archives")


@pytest.mark.parametrize(
    "target",
    ["torch.nn.Linear", "torch.nn.modules.linear.Linear", "torch.optim.RMSprop",
     "torch.optim.lr_scheduler.ConstantLR", "bench.data.digits.load",
     "optimizers.partition.by_layer"],
)  # fmt: skip
def test_components_are_allowed_also_where_no_file_names_them(target: str) -> None:
    trust.check({"model": calling(target)}, "config.json")


# -- code of the user's own -----------------------------------------------------------------------


def test_a_run_by_an_override_is_measured_when_its_package_is_trusted(
    modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(modules)]))
    own = train(
        tmp_path, "model=mlp", "model.hidden=[8]", "trainer.epochs=1", "optimizer=sgd",
        "optimizer._target_=lab_parts.Thing", "trainer.accounting=false",
    )  # fmt: skip
    line = refused(own)
    assert "optimizer._target_ names 'lab_parts.Thing', which no YAML file in" in line
    assert line.endswith("if you trust that package, add --trust=lab_parts")
    assert "lab_parts" not in sys.modules
    for word in ("--trust=lab_parts", "trust=other_parts,lab_parts"):
        curvature.main([f"run={own}", "directions=1", "batch=50", "force=true", word])
    assert (own / "curvature.parquet").is_file()


@pytest.fixture
def home(modules: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A config tree in which a file of the user's own names ``lab_parts.Thing``."""
    own = tmp_path / "home"
    for name in ("conf", "sweeps"):
        shutil.copytree(paths.home() / name, own / name)
    monkeypatch.setattr(paths, "home", lambda: own)
    (own / "conf" / "optimizer" / "thing.yaml").write_text("_target_: lab_parts.Thing\nlr: 0.1\n")
    return own


@pytest.mark.parametrize("target", ["lab_parts.Thing", "lab_parts.Net", "lab_parts.built"])
def test_what_ones_own_yaml_names_needs_no_word(run: Path, home: Path, target: str) -> None:
    assert (home / "conf").is_dir()
    assert restore(changed(run, "optimizer", calling(target))).step > 0


@pytest.mark.parametrize(
    "target",
    ["lab_parts.groups", "lab_parts.Runner", "lab_parts.os.system", "lab_parts.load",
     "lab_parts.torch.hub.load", "lab_parts.nothing"],
)  # fmt: skip
def test_a_package_that_a_yaml_names_is_no_door(run: Path, home: Path, target: str) -> None:
    assert f"'{target}'" in refused(changed(run, "optimizer", calling(target)))
    assert (home / "conf").is_dir()


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("sweeps/mine.yaml", "optimizer._target_: evil_parts.call,os.getcwd\n"),
        ("conf/optimizer/mine.yaml", 'a: [{"_target_": "evil_parts.call"}]\n'),
        ("conf/deep/er/mine.yaml", "defaults: ['x._target_=evil_parts.call']\n"),
    ],
)
def test_a_target_is_named_wherever_a_file_names_it(home: Path, file: str, text: str) -> None:
    assert "evil_parts.call" not in trust.named_targets()
    (home / file).parent.mkdir(parents=True, exist_ok=True)
    (home / file).write_text(text)
    assert "evil_parts.call" in trust.named_targets()


def test_a_comment_names_nothing_and_the_search_path_counts(home: Path, tmp_path: Path) -> None:
    (home / "sweeps" / "mine.yaml").write_text("# _target_: evil_parts.call\nseed: 0\n")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "mine.yaml").write_text("_target_: lab_parts.groups\n")
    main = home / "conf" / "train.yaml"
    found = '["file://${bench_home:}"'
    assert found in main.read_text()
    main.write_text(main.read_text().replace(found, f'{found}, "file://{elsewhere}"'))
    named = trust.named_targets()
    assert "evil_parts.call" not in named
    assert "lab_parts.groups" in named


def test_a_trusted_package_is_trusted_for_what_it_defines(run: Path, modules: Path) -> None:
    changed(run, "optimizer", calling("lab_parts.groups"))
    assert restore(run, trusted=["lab_parts"]).step > 0
    changed(run, "optimizer", calling("lab_parts.os.system"))
    assert "'lab_parts.os.system'" in refused(run, "trust=lab_parts")
    changed(run, "optimizer", calling("evil_parts.call"))
    assert "'evil_parts.call'" in refused(run, "trust=lab_parts")
    assert not (modules / "mark").exists()


@pytest.mark.parametrize("name", ["os", "torch", "torch.hub", "hydra.utils", "bench", "builtins"])
def test_what_runs_anything_cannot_be_trusted(run: Path, name: str) -> None:
    assert refused(run, f"--trust={name}").startswith(f"trust={name}: not everything in it")


def test_ones_own_command_line_is_not_restricted(modules: Path) -> None:
    words = ["model=mlp", "optimizer=sgd", "optimizer._target_=lab_parts.Thing"]
    assert config.load(words).optimizer["_target_"] == "lab_parts.Thing"
    assert modules.is_dir()


def test_help_names_the_option(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS.values():
        with pytest.raises(SystemExit):
            command.main(["--help"])
        assert "--trust=<package>" in capsys.readouterr().out


# -- other doors ----------------------------------------------------------------------------------


def test_tensors_are_read_without_code() -> None:
    calls = [
        (file, call)
        for package in ("bench", "analysis", "optimizers")
        for file in (ROOT / package).rglob("*.py")
        for call in ast.walk(ast.parse(file.read_text()))
        if isinstance(call, ast.Call) and ast.unparse(call.func) == "torch.load"
    ]
    assert calls
    for file, call in calls:
        words = {word.arg: ast.unparse(word.value) for word in call.keywords}
        assert words.get("weights_only") == "True", f"{file}:{call.lineno}"


def test_no_source_reads_a_format_that_holds_code() -> None:
    doors = {"pickle.load", "pickle.loads", "yaml.load", "yaml.unsafe_load", "yaml.full_load",
             "joblib.load", "pd.read_pickle", "eval", "exec"}  # fmt: skip
    for package in ("bench", "analysis", "optimizers"):
        for file in (ROOT / package).rglob("*.py"):
            called = {
                ast.unparse(call.func)
                for call in ast.walk(ast.parse(file.read_text()))
                if isinstance(call, ast.Call)
            }
            assert not called & doors, file
            assert "allow_pickle=True" not in file.read_text(), file
