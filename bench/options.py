"""The command line of commands that are not Hydra's: ``spectral-bench tables key=value ...``.

A command declares its options as a subclass of `Options` (typed, described fields) and calls

    options = parse(CurvatureOptions, argv, prog="spectral-bench curvature", description=...)

and its module ends with ``if __name__ == "__main__": run(main)``. A user's mistake is raised as
`UserError` and shown as one line, never as a traceback.
"""

from __future__ import annotations

import re
import sys
import textwrap
import types
import typing
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from enum import Enum
from pathlib import Path
from typing import Any, Literal, NoReturn, TypeVar, Union

from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError
from pydantic.fields import FieldInfo
from pydantic_core import ErrorDetails
from rich.console import Console, RenderableType

from bench.errors import UserError, piped

_INTEGER = re.compile(r"[-+]?[0-9]+")
_FLOAT = re.compile(r"[-+]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][-+]?[0-9]+)?")
_WORDS = {"true": True, "false": False, "null": None, "~": None}
# Before the last argument: it is unfinished, say what it may become (bench/completion.py).
COMPLETE = "--complete"
_BOUNDS = {"ge": ">=", "gt": ">", "le": "<=", "lt": "<"}
_NAMES: dict[Any, str] = {
    int: "integer",
    float: "number",
    bool: "true or false",
    str: "text",
    Path: "path",
    type(None): "null",
}


class Options(BaseModel):
    """Base class of a command's options: unknown keys are refused, values are fixed."""

    model_config = ConfigDict(extra="forbid", frozen=True)


OptionsT = TypeVar("OptionsT", bound=BaseModel)


def parse(
    options: type[OptionsT],
    argv: Sequence[str],
    *,
    prog: str,
    description: str,
    examples: Sequence[str] = (),
) -> OptionsT:
    """Read ``key=value`` arguments into ``options``.

    A value is a YAML-like scalar (``true``, ``null``, ``20``, ``1e-3``, text) read according to
    the field's type; a list field takes ``a,b,c``. Only the first ``=`` separates, so values may
    contain more of them. ``--help`` or ``-h`` prints the help page.

    Args:
        options: pydantic model (v2) with one described field an option.
        argv: the arguments, without the program's name.
        prog: how the command is called, for example ``spectral-bench curvature``.
        description: what the command does, for the help page.
        examples: arguments of example calls, for the help page.

    Raises:
        UserError: an argument without ``=``, an unknown, repeated or missing option, a wrong value.
        SystemExit: with code 0, after the help page was printed.
    """
    if any(argument in ("--help", "-h") for argument in argv):
        print(help_page(options, prog=prog, description=description, examples=examples))
        raise SystemExit(0)
    if argv[-2:-1] == [COMPLETE]:
        print("\n".join(_offers(options, argv[:-2], argv[-1])))
        raise SystemExit(0)
    texts: dict[str, str] = {}
    for argument in argv:
        if argument.startswith("--trust="):  # as tools write what lowers a guard
            argument = argument.removeprefix("--")  # noqa: PLW2901
        name, text = _split(argument, options.model_fields)
        if name in texts:
            raise UserError(f"option '{name}' is given twice; give it once ({prog} --help)")
        texts[name] = text
    values = {name: _read(options.model_fields[name].annotation, texts[name]) for name in texts}
    try:
        return options(**values)
    except ValidationError as error:
        message = _explain(error.errors()[0], options.model_fields, texts)
        raise UserError(f"{message} ({prog} --help)") from None


def run(main: Callable[[list[str]], int | None]) -> NoReturn:
    """Call ``main(arguments)`` and exit: its code, 2 on `UserError`, 130 on Ctrl-C.

    141 where the reader of what is printed has gone.
    """
    code = 0
    try:
        with piped():
            code = main(sys.argv[1:]) or 0
    except UserError as error:
        line = " ".join(str(error).split())
        line = "".join(letter if letter.isprintable() else "?" for letter in line)
        print("error:", line, file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        code = 130
    sys.exit(code)


class _Console(Console):
    def on_broken_pipe(self) -> None:
        """Let `bench.errors.piped` end the command."""
        raise BrokenPipeError


def show(renderable: RenderableType) -> None:
    """Print a rich renderable at its natural width, so that a narrow terminal cuts no number."""
    console = _Console()
    unlimited = console.options.update(max_width=10_000)
    width = console.measure(renderable, options=unlimited).maximum
    _Console(width=max(width, console.width), highlight=False).print(renderable)


def help_page(
    options: type[BaseModel], *, prog: str, description: str, examples: Sequence[str] = ()
) -> str:
    """Return the help page: usage, what it does, every option with type and default, examples."""
    required = [f"{name}=..." for name, field in options.model_fields.items() if _required(field)]
    parts = [" ".join(["usage:", prog, *required, "[option=value ...]"]), ""]
    for paragraph in description.strip().split("\n\n"):
        parts += [textwrap.fill(" ".join(paragraph.split()), 88), ""]
    parts.append("options:")
    for name, field in options.model_fields.items():
        default = "required" if _required(field) else f"default: {_show(field.get_default())}"
        parts.append(f"  {name}=<{_expected(field)}>   [{default}]")
        note = " ".join((field.description or "").split())
        parts += textwrap.wrap(note, 88, initial_indent=" " * 6, subsequent_indent=" " * 6)
    if examples:
        parts += ["", "examples:", *(f"  {prog} {example}" for example in examples)]
    return "\n".join(parts)


def _required(field: FieldInfo) -> bool:
    return field.is_required()


def _show(value: object) -> str:
    """Return a value as it would be typed on the command line."""
    if isinstance(value, Enum):
        return _show(value.value)
    if isinstance(value, list | tuple):
        return ",".join(_show(item) for item in value) or "(empty)"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def _offers(options: type[BaseModel], before: Sequence[str], word: str) -> list[str]:
    """Return the options that are not given yet, or the values of the one in ``word``."""
    name, separator, _ = word.partition("=")
    if not separator:
        given = {argument.partition("=")[0] for argument in before}
        return [f"{field}=" for field in options.model_fields if field not in given]
    if name not in options.model_fields:
        return []
    annotation = options.model_fields[name].annotation
    values = ["true", "false"] if bool in _members(annotation) else _choices(annotation)
    return [f"{name}={value}" for value in values]


def _split(argument: str, fields: dict[str, FieldInfo]) -> tuple[str, str]:
    name, separator, text = argument.partition("=")
    bare = name.lstrip("-").replace("-", "_")
    if not separator:
        first = next((key for key in fields if _required(fields[key])), next(iter(fields), "key"))
        key = bare if bare in fields else first
        raise UserError(
            f"argument '{argument}' has no '=': options are written key=value, as in {key}=..."
        )
    if name in fields:
        return name, text
    close = get_close_matches(bare, fields, n=1, cutoff=0.5)
    hint = f"did you mean '{close[0]}='?" if close else f"valid options: {', '.join(fields)}"
    raise UserError(f"unknown option '{name}'; {hint}")


def _scalar(text: str) -> Any:
    """Return a YAML-like scalar: true, false, null, an integer, a number, or the text itself."""
    if text in _WORDS:
        return _WORDS[text]
    if _INTEGER.fullmatch(text):
        return int(text)
    return float(text) if _FLOAT.fullmatch(text) else text


def _read(annotation: Any, text: str) -> Any:
    """Return the reading of ``text`` that ``annotation`` accepts; the text where there is none."""
    if len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    members = _members(annotation)
    item = next((m for m in members if typing.get_origin(m) in (list, tuple, set)), None)
    if item is not None and not (text in ("null", "~") and type(None) in members):
        inner = text[1:-1] if text[:1] == "[" and text[-1:] == "]" else text
        parts = [part.strip() for part in inner.split(",")] if inner.strip() else []
        return [_read(typing.get_args(item)[0], part) for part in parts]
    adapter: TypeAdapter[Any] = TypeAdapter(annotation)
    scalar = _scalar(text)
    candidates: list[Any] = [scalar, text]
    if isinstance(scalar, bool) and bool not in members:
        candidates = [text]  # pydantic would take true for the number 1
    for candidate in candidates:
        try:
            adapter.validate_python(candidate)
        except ValidationError:
            continue
        return candidate
    return text


def _members(annotation: Any) -> tuple[Any, ...]:
    """Return the alternatives of a union, or the annotation alone."""
    if typing.get_origin(annotation) in (Union, types.UnionType):
        return typing.get_args(annotation)
    return (annotation,)


def _choices(annotation: Any) -> list[str]:
    """Return the values of an enumeration or Literal, also inside a union or list; else none."""
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return [_show(member) for member in annotation]
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is Literal:
        return [_show(argument) for argument in arguments]
    return [choice for argument in arguments for choice in _choices(argument)]


def _describe(annotation: Any) -> str:
    origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal or (isinstance(annotation, type) and issubclass(annotation, Enum)):
        return " | ".join(_choices(annotation))
    if origin is typing.Annotated:
        return _describe(arguments[0])
    if origin in (list, tuple, set):
        return f"{_describe(arguments[0])}, comma-separated"
    if origin in (Union, types.UnionType):
        return " or ".join(_describe(argument) for argument in arguments)
    return _NAMES.get(annotation, getattr(annotation, "__name__", str(annotation)))


def _expected(field: FieldInfo) -> str:
    """Return what a field takes, with its bounds: ``integer >= 1``."""
    bounds = [
        f"{sign} {getattr(rule, name)}"
        for rule in field.metadata
        for name, sign in _BOUNDS.items()
        if getattr(rule, name, None) is not None
    ]
    return " ".join([_describe(field.annotation), " and ".join(bounds)]).strip()


def _explain(error: ErrorDetails, fields: dict[str, FieldInfo], texts: dict[str, str]) -> str:
    """Return one line for the first error that pydantic found."""
    name = str(error["loc"][0]) if error["loc"] else ""
    if error["type"] == "missing":
        note = " ".join((fields[name].description or "").split())
        return f"option '{name}' is required: {name}=<{_expected(fields[name])}>. {note}".strip()
    if error["type"] in ("value_error", "assertion_error"):  # written by the command itself
        message = error["msg"].partition(", ")[2]
        return f"{name}={texts[name]}: {message}" if name in texts else message
    field = fields[name]
    line = f"{name}={texts.get(name, '')} is not valid: expected {_expected(field)}"
    close = get_close_matches(texts.get(name, ""), _choices(field.annotation), n=1)
    return f"{line}; did you mean '{close[0]}'?" if close else line
