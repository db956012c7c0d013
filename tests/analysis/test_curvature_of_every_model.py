"""The command on a run of every model of conf/model/: it measures every weight layer, in one go.

Parametrised over the files: a new model is tested without a change here, large ones being made
smaller where they can be.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from analysis.curvature import main
from bench import config, files, train
from bench.errors import UserError
from bench.identity import identify
from bench.run_folder import RunFolder

pytestmark = pytest.mark.slow
MODELS = sorted((files.conf_dir() / "model").glob("*.yaml"))
SMALLER = {"dim": 12, "layers": 2, "heads": 2, "hidden": "[9,8]", "head_width": 32}
IMAGES = ("dataset=synthetic_images", "dataset.count=18", "dataset.test_count=4",
          "dataset.image_size={}")  # fmt: skip
TOKENS = ("dataset=synthetic_lm", "dataset.count=16", "dataset.held_out=4",
          "dataset.context_length=8", "dataset.vocab_size=16", "dataset.branching=4")  # fmt: skip


@pytest.mark.parametrize("path", MODELS, ids=lambda path: path.stem)
def test_every_weight_layer_is_measured(
    path: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = path.read_text()
    smaller = [
        f"model.{key}={value}"
        for key, value in SMALLER.items()
        if re.search(f"^{key}:", text, re.MULTILINE)
    ]
    images = [word.format(32 if "vgg" in path.stem else 8) for word in IMAGES]  # five poolings
    run = config.load(
        [f"model={path.stem}", *smaller, *(TOKENS if "GPT" in text else images),
         "trainer.epochs=1", "trainer.batch_size=8", "trainer.device=cpu", "trainer.threads=1",
         "trainer.progress=none", "trainer.accounting=false", "tracker=none",
         f"runs_dir={tmp_path}"]
    )  # fmt: skip
    try:
        assert train.train(run)["state"] == "done"
    except UserError as error:
        if "no weights in" not in str(error):
            raise
        pytest.skip(f"{path.stem} starts from weights that are not here")
    folder = RunFolder(tmp_path / identify(run).id).path
    main([f"run={folder}", "directions=2", "batch=3"])
    assert "on 3 training samples: 2 directions a layer" in capsys.readouterr().out
    table = pd.read_parquet(folder / "curvature.parquet")
    assert (table.groupby("layer").size() == 2).all()
    assert np.isfinite(table[["sigma", "h"]]).all(axis=None)
    assert (table["sigma"] >= 0).all()
    assert (table["h"] != 0).mean() > 0.9
    (engine,) = set(table["engine"])
    bends = "vit" in path.stem or "gpt" in path.stem
    assert engine in ({"double_backward"} if bends else {"sweep", "tangent"})
