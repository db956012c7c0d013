"""What a ``_target_`` accepts: unknown keys, wrong types and refused values, before any work.

Nothing here knows an optimizer, a model or a dataset by name. Signatures say which keys exist and
of what type; a trial construction on the meta device (no memory, no arithmetic) lets the component
itself refuse what it cannot take.
"""

from __future__ import annotations

import inspect
import json
import typing
import warnings
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from typing import Any, TypeVar

import torch
from omegaconf import OmegaConf
from pydantic import ConfigDict, TypeAdapter, ValidationError
from pydantic.errors import PydanticSchemaGenerationError, PydanticUserError

from bench import build, errors, files
from bench.digest import is_ours
from bench.errors import MissingHereError, UserError, suggestion
from bench.public_names import canonical, current, locate
from bench.torch_private import without_compiler

_T = TypeVar("_T")

# Keys that Hydra's instantiate reads itself, and `params`, which build_optimizer reads.
_RESERVED = frozenset({"_target_", "_partial_", "_recursive_", "_convert_", "_args_", "params"})
# What the bench gives a component itself: in a config it would be passed over in silence.
_GIVEN = {
    "dataset": ("root", "seed"),
    "schedule": ("total_steps",),
    "tracker": ("info",),
}


# Components that were completed before, by group and content.
Known = dict[tuple[str, str], dict[str, Any]]


def check(
    components: Mapping[str, Mapping[str, Any]], names: Mapping[str, str] | None = None
) -> dict[str, dict[str, Any]]:
    """Return a run's components by group, values coerced and our own defaults written out.

    Args:
        components: by group.
        names: the chosen file of each group, for messages.

    Raises:
        UserError: a component that does not exist, a key it does not know, a value it refuses, or
            a model that cannot take what the dataset gives.
    """
    checked = complete(components, names)
    try_out(checked, names or {})
    return checked


def complete(
    components: Mapping[str, Mapping[str, Any]],
    names: Mapping[str, str] | None = None,
    known: Known | None = None,
) -> dict[str, dict[str, Any]]:
    """As ``check``, by signatures alone; the components' own objections are for ``try_out``.

    What is in ``known`` is not worked out again: a grid repeats the same components.
    """
    known = {} if known is None else known
    completed = {}
    for group, component in components.items():
        key = (group, json.dumps(component))
        if key not in known:
            known[key] = _checked(component, group, (names or {}).get(group))
        completed[group] = dict(known[key])
    return completed


def _checked(component: Mapping[str, Any], where: str, choice: str | None) -> dict[str, Any]:
    target = _locate(component, where, choice)
    parameters = _parameters(target)
    hints = _hints(target)
    given = _given(target, where)
    open_ended = _is_open_ended(parameters)
    out: dict[str, Any] = {}
    for key, value in component.items():
        if isinstance(value, Mapping) and "_target_" in value:
            out[key] = _checked(value, f"{where}.{key}", choice)
        elif key in _RESERVED:
            out[key] = canonical(str(value)) if key == "_target_" else value
        elif key in given:
            raise UserError(f"{where}.{key}: the bench sets this itself; leave it out")
        elif key not in parameters and not open_ended:
            names = [name for name, p in parameters.items() if p.default is not p.empty]
            raise UserError(
                f"{where}.{key}: {component['_target_']} has no such option; "
                f"{suggestion(key, names)}"
            )
        else:
            out[key] = _coerced(value, hints.get(key), f"{where}.{key}")
    if is_ours(str(component["_target_"])):  # a changed default is another experiment
        for name, parameter in parameters.items():
            default = parameter.default
            if name not in out and _is_plain(default):
                out[name] = list(default) if isinstance(default, tuple) else default
    return out


def _locate(
    component: Mapping[str, Any], where: str, choice: str | None = None
) -> Callable[..., Any]:
    if "_target_" not in component:
        raise UserError(f"{where}: a _target_ is missing; name the class or function to call")
    try:
        located = locate(str(component["_target_"]))
    except Exception as raised:  # whatever the import raises, the name is what the user can mend
        error = errors.import_failure(current(str(component["_target_"])), raised)
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        extra = errors.needed(error)
        if extra is not None:
            group = where.partition(".")[0]
            asked = f"{group}={choice}" if choice else component["_target_"]
            raise MissingHereError(f"{asked} {extra}") from error
        raise UserError(
            f"{where}._target_: cannot import {component['_target_']!r} ({reason})"
        ) from error
    if not callable(located):
        raise UserError(f"{where}._target_: {component['_target_']!r} cannot be called")
    return typing.cast("Callable[..., Any]", located)


def _given(target: Callable[..., Any], where: str) -> Collection[str]:
    if where == "model":
        return [field for kind in build.taken_kinds(target) for field in kind._fields]
    return _GIVEN.get(where, ())


def _parameters(target: Callable[..., Any]) -> dict[str, inspect.Parameter]:
    """Return what ``target`` takes, by name; an optimizer takes nothing that it does not name.

    Some packages' optimizers put any other key into their groups and never look at it again. Where
    an optimizer has such ``**keys``, the options that its base classes name count as well.
    """
    accepted = dict(inspect.signature(target).parameters)
    if inspect.isclass(target) and issubclass(target, torch.optim.Optimizer):
        for base in target.__mro__[1:]:
            if _is_open_ended(accepted) and "__init__" in vars(base):
                named = {key: p for key, p in accepted.items() if p.kind is not p.VAR_KEYWORD}
                above = dict(inspect.signature(base).parameters)
                options = {key: p for key, p in above.items() if p.default is not p.empty}
                rest = {key: p for key, p in above.items() if p.kind is p.VAR_KEYWORD}
                accepted = {**options, **named, **rest}
    return accepted


def _is_open_ended(parameters: Mapping[str, inspect.Parameter]) -> bool:
    return any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())


def _hints(target: Callable[..., Any]) -> dict[str, Any]:
    function = target.__init__ if inspect.isclass(target) else target
    try:
        return typing.get_type_hints(function, include_extras=True)
    except (NameError, TypeError):  # annotations for type checkers only
        return {}


def _coerced(value: Any, hint: Any, where: str) -> Any:
    if hint is None or isinstance(value, Mapping):
        return value
    try:
        adapter = TypeAdapter(hint, config=ConfigDict(arbitrary_types_allowed=True))
    except (PydanticSchemaGenerationError, PydanticUserError):
        return value
    try:
        coerced = adapter.validate_python(value)
    except ValidationError as error:
        expected = error.errors()[0]["msg"].lower()
        raise UserError(f"{where}: {expected}, not {value!r}") from error
    if isinstance(value, bool) and not isinstance(coerced, bool):
        raise UserError(f"{where}: a number or a text is expected, not {str(value).lower()}")
    return list(coerced) if isinstance(coerced, tuple) else coerced


def _is_plain(value: Any) -> bool:
    if isinstance(value, list | tuple):
        return all(_is_plain(item) for item in value)
    return value is None or isinstance(value, bool | int | float | str)


def _fitting_shape(checked: Mapping[str, dict[str, Any]], names: Mapping[str, str]) -> build.Shape:
    """Return the shape to try the model with: the dataset's own where its config says it."""
    model, dataset = checked["model"], checked["dataset"]
    kinds = build.taken_kinds(_locate(model, "model"))
    fields = " or ".join(", ".join(kind._fields) for kind in build.CONTENT)
    if not kinds:
        raise UserError(f"model._target_: {model['_target_']} takes no arguments named {fields}")
    shape = build.attempt("dataset", lambda: build.declared_shape(dataset))
    if shape is None:
        return build.TRIAL_SHAPES[kinds[0]]
    if type(shape) not in kinds:
        takes, gives = build.CONTENT[kinds[0]], build.CONTENT[type(shape)]
        raise UserError(
            f"model={names.get('model', model['_target_'])} takes {takes}, "
            f"dataset={names.get('dataset', dataset['_target_'])} gives {gives}; "
            f"choose model={', '.join(models_for(type(shape)))}"
        )
    tasks = [component.get("task") for component in (model, dataset)]
    if None not in tasks and tasks[0] != tasks[1]:
        raise UserError(
            f"model.task={tasks[0]} does not fit dataset.task={tasks[1]}; give both the same"
        )
    return shape


def models_for(kind: type[build.Shape]) -> list[str]:
    """Return the names of the files in conf/model/ whose model takes ``kind``."""
    names = []
    for file in sorted((files.conf_dir() / "model").glob("*.yaml")):
        config = OmegaConf.load(file)
        with suppress(UserError):  # a file that is broken, or needs what is not installed
            target = _locate({"_target_": OmegaConf.select(config, "_target_")}, "model")
            names += [file.stem] if kind in build.taken_kinds(target) else []
    return names


def try_out(checked: Mapping[str, dict[str, Any]], names: Mapping[str, str]) -> None:
    """Build model, optimizer and schedule once without memory, so that they can refuse values."""
    shape = _fitting_shape(checked, names)
    with warnings.catch_warnings(), torch.device("meta"), without_compiler():
        warnings.simplefilter("ignore")
        model = build.attempt("model", lambda: build.build_model(checked["model"], shape))
        optimizer = build.attempt(
            "optimizer", lambda: build.build_optimizer(checked["optimizer"], model)
        )
    build.attempt("schedule", lambda: build.build_schedule(checked["schedule"], optimizer, 100))
