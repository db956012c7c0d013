"""Import torchvision also where its compiled operators cannot be loaded.

A CUDA build of torchvision beside a CPU build of torch fails at import ("operator torchvision::nms
does not exist"): it registers fake kernels for operators whose schemas live in the library that
could not be loaded. Declaring the two schemas is enough for models, datasets and transforms;
calling the operators still raises. A torchvision whose library loads is left alone.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)
_libraries: list[torch.library.Library] = []  # a Library undoes its definitions when collected


@functools.cache
def ensure_torchvision() -> str:
    """Make ``import torchvision`` safe; say what was found: "compiled" or "schemas only".

    Raises:
        ModuleNotFoundError: torchvision is not installed.
    """
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError("torchvision is not installed: pip install torchvision")
    for library in Path(spec.submodule_search_locations[0]).glob("_C*.so"):
        try:
            torch.ops.load_library(str(library))  # type: ignore[no-untyped-call]
            return "compiled"
        except OSError:
            continue
    fragment = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
    for schema in _SCHEMAS:
        fragment.define(schema)  # type: ignore[no-untyped-call]
    _libraries.append(fragment)
    return "schemas only"
