"""A digest of what a component's code says, wherever that code lies and however it is written down.

Counted are the definitions that a target reaches inside this project: its own and, through the
names that they use, those of its bases, helpers, decorators and constants, also where a function
imports them only when it is called. Not counted are comments, docstrings, annotations, the words of
a refusal, imports, the names and places of definitions, and code of other packages.

All is read from the sources; nothing is imported or run.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, cached_property
from pathlib import Path
from typing import Any, NamedTuple

from bench.public_names import canonical, current, locate, targets_of

PACKAGES = ("bench", "optimizers", "analysis", "hydra_plugins")
_DIGITS = 16
_MOST_IMPORTS = 100  # in a row; two modules may import a name from each other that neither defines
_DEFINITIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)
_FUNCTIONS = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda)
_IMPORTS = (ast.Import, ast.ImportFrom)
_ELSEWHERE = (ast.Global, ast.Nonlocal)
_COMPREHENSIONS = (ast.ListComp, ast.SetComp, ast.DictComp, ast.GeneratorExp)
_NAMING = (ast.ExceptHandler, ast.MatchAs, ast.MatchStar, ast.MatchMapping)
_UNCOUNTED = (*_IMPORTS, *_ELSEWHERE, ast.Pass)
_UNCOUNTED_FIELDS = frozenset(
    {"annotation", "returns", "type_comment", "type_params", "kind", "ctx", "simple"}
)


def component_digests(component: Mapping[str, Any]) -> dict[str, str | None]:
    """Return the `source_digest` of what a config names, and of each thing of ours inside it.

    The names are canonical. What another package's code does inside it is told by that package's
    version.
    """
    whole, *inside = targets_of(component)
    ours = [target for target in inside if is_ours(target)]
    return {canonical(target): source_digest(target) for target in (whole, *ours)}


def is_ours(target: str) -> bool:
    """Return whether a target is of this project."""
    return target.partition(".")[0] in PACKAGES


@cache
def source_digest(target: str) -> str | None:
    """Return a hash of the code that ``target`` names; None if it is built into Python.

    Of a target inside this project it covers the `definitions <Sources.digest>` it reaches; of any
    other, the file that defines it.
    """
    own = _installed().digest(current(target))
    if own is not None:
        return own
    try:
        file = inspect.getsourcefile(inspect.unwrap(locate(target)))
    except TypeError:
        return None
    if file is None:
        return None
    path = Path(file)
    return _hashed(path.name.encode(), b"\0", path.read_bytes()).hex()[:_DIGITS]


@cache
def _installed() -> Sources:
    root = Path(__file__).resolve().parent.parent
    return Sources({name: root / name for name in PACKAGES})


class _Definition(NamedTuple):
    """What a module calls ``name`` on its own top level."""

    module: str
    name: str


@dataclass
class Sources:
    """The sources of some packages, by name and folder."""

    folders: Mapping[str, Path]
    _modules: dict[str, _Module | None] = field(default_factory=dict)

    def digest(self, target: str) -> str | None:
        """Return the digest of the definitions that ``target`` reaches; None if it is not in here.

        Every definition is hashed with those that it uses, and these with theirs, until more rounds
        tell no more of them apart: names and places play no part in it, and circles do no harm.
        """
        root, _ = self.resolve(target)
        if not isinstance(root, _Definition):
            return None
        content: dict[_Definition, tuple[bytes, list[_Definition]]] = {}
        pending = [root]
        while pending:
            definition = pending.pop()
            if definition not in content:
                content[definition] = self._content(definition)
                pending += content[definition][1]
        colours = {definition: text for definition, (text, _) in content.items()}
        kinds = 0
        while len(set(colours.values())) > kinds:
            kinds = len(set(colours.values()))
            colours = {
                definition: _hashed(text, *(colours[one] for one in used))
                for definition, (text, used) in content.items()
            }
        return _hashed(colours[root], *sorted(colours.values())).hex()[:_DIGITS]

    def _content(self, definition: _Definition) -> tuple[bytes, list[_Definition]]:
        """Return the hash of a definition's text and what it uses, in the order of its use."""
        module = self.module(definition.module)
        assert module is not None
        writer = _Writer(self, definition)
        for statement in module.definitions[definition.name]:
            writer.write(statement)
        return _hashed("".join(writer.text).encode()), writer.used

    def resolve(self, dotted: str) -> tuple[_Definition | _Module | str, str]:
        """Return what ``dotted`` leads to, through imports, and the attributes of it that are left.

        That is a definition or a module of these packages; a text for what lies outside of them.
        """
        for _ in range(_MOST_IMPORTS):
            parts = dotted.split(".")
            module = self.module(parts[0])
            for known, name in enumerate(parts[1:], 1):
                if module is None:
                    return dotted, ""
                if name in module.imports:
                    dotted = ".".join([module.imports[name], *parts[known + 1 :]])
                    break
                if name in module.definitions:
                    return _Definition(module.name, name), ".".join(parts[known + 1 :])
                is_package = module.name == module.package
                module = self.module(f"{module.name}.{name}") if is_package else None
            else:
                return module or dotted, ""
        return dotted, ""

    def module(self, name: str) -> _Module | None:
        """Return a module of these packages, None if there is none of this name."""
        if name not in self._modules:
            top, *rest = name.split(".")
            folder = self.folders[top].joinpath(*rest) if top in self.folders else None
            self._modules[name] = None if folder is None else _read(name, folder)
        return self._modules[name]


def _read(name: str, folder: Path) -> _Module | None:
    package = folder / "__init__.py"
    if package.is_file():
        return _Module(name, name, package.read_text(encoding="utf-8"))
    file = folder.with_name(f"{folder.name}.py")
    if file.is_file():
        return _Module(name, name.rpartition(".")[0], file.read_text(encoding="utf-8"))
    return _Module(name, name, "") if folder.is_dir() else None


@dataclass
class _Module:
    """One module's source: ``package`` is what its relative imports start from."""

    name: str
    package: str
    source: str

    @cached_property
    def _names(self) -> tuple[dict[str, str], dict[str, list[ast.stmt]]]:
        imports: dict[str, str] = {}
        definitions: dict[str, list[ast.stmt]] = {}
        for statement in ast.parse(self.source).body:
            bound = _bound([statement], self.package)
            imports |= {name: dotted for name, dotted in bound.items() if dotted is not None}
            for name in dict.fromkeys([*bound, *_changed(statement)]):
                definitions.setdefault(name, []).append(statement)
        return imports, {name: definitions[name] for name in definitions.keys() - imports.keys()}

    @property
    def imports(self) -> dict[str, str]:
        """What the module imports on its top level: full dotted names by the names used here."""
        return self._names[0]

    @property
    def definitions(self) -> dict[str, list[ast.stmt]]:
        """The top-level statements that make or change each name that is not imported."""
        return self._names[1]


def _changed(statement: ast.stmt) -> Iterator[str]:
    """Yield the names whose objects a statement changes: ``x[0] = 1``, ``x.a = 1``, ``x.f(1)``."""
    targets: list[ast.expr] = []
    if isinstance(statement, ast.Assign):
        targets = statement.targets
    elif isinstance(statement, ast.AugAssign | ast.AnnAssign):
        targets = [statement.target]
    elif isinstance(statement, ast.Expr) and isinstance(statement.value, ast.Call):
        targets = [statement.value.func]
    for target in targets:
        inner: ast.expr = target
        while isinstance(inner, ast.Attribute | ast.Subscript):
            inner = inner.value
        if isinstance(inner, ast.Name) and inner is not target:
            yield inner.id


def _bound(body: Iterable[Any], package: str) -> dict[str, str | None]:
    """Return the names that a scope binds: to the full name of an import, or None for the rest."""
    bound: dict[str, str | None] = {}
    elsewhere: set[str] = set()
    left = list(body)
    while left:
        node = left.pop()
        kind = type(node)
        if kind is ast.Name:
            if type(node.ctx) is not ast.Load:
                bound.setdefault(node.id, None)
        elif kind in _DEFINITIONS:
            bound.setdefault(node.name, None)
        elif kind in _IMPORTS:
            bound |= _imported(node, package)
        elif kind in _COMPREHENSIONS:  # names of their own, but for those given by :=
            left += [inner.target for inner in ast.walk(node) if isinstance(inner, ast.NamedExpr)]
        elif kind in _ELSEWHERE:
            elsewhere.update(node.names)
        elif kind is not ast.Lambda:
            if kind in _NAMING:  # except ... as name, and the patterns of match
                name = node.rest if kind is ast.MatchMapping else node.name
                bound |= {} if name is None else {name: None}
            left += ast.iter_child_nodes(node)
    return {name: dotted for name, dotted in bound.items() if name not in elsewhere}


def _imported(node: ast.Import | ast.ImportFrom, package: str) -> dict[str, str]:
    if isinstance(node, ast.Import):
        return {
            alias.asname or alias.name.partition(".")[0]: (
                alias.name if alias.asname else alias.name.partition(".")[0]
            )
            for alias in node.names
        }
    above = package.split(".")
    start = ".".join(above[: len(above) - node.level + 1]) if node.level else ""
    origin = ".".join(filter(None, [start, node.module]))
    return {alias.asname or alias.name: f"{origin}.{alias.name}" for alias in node.names}


class _Scope(dict[str, str | None]):
    """The names of a function or a class body, as `_bound` gives them."""

    of_class = False


class _ClassScope(_Scope):
    of_class = True


class _Writer:
    """Writes a definition's syntax tree down, each use of another definition as a mark."""

    def __init__(self, sources: Sources, own: _Definition) -> None:
        module = sources.module(own.module)
        assert module is not None
        self.text: list[str] = []
        self.used: list[_Definition] = []
        self._sources, self._own, self._package = sources, own, module.package
        self._scopes: list[_Scope] = []
        self._ways: dict[type, Callable[[Any], None]] = {
            ast.AnnAssign: self._annotated,
            ast.Assert: lambda node: self._node(node, "msg"),
            ast.Attribute: self._reference,
            ast.ClassDef: self._class,
            ast.Constant: self._constant,
            ast.Name: self._reference,
            ast.Raise: self._raise,
            list: self._list,
            **dict.fromkeys(_FUNCTIONS, self._function),
            **dict.fromkeys(_COMPREHENSIONS, self._comprehension),
        }

    def write(self, value: Any) -> None:
        """Add a node, a list of nodes, or a plain value of a node's field."""
        way = self._ways.get(type(value))
        if way is not None:
            way(value)
        elif isinstance(value, ast.AST):
            self._node(value)
        else:
            self.text.append(f"{value!r};")

    def _list(self, values: list[Any]) -> None:
        self.text.append("[")
        for value in values:
            if not isinstance(value, _UNCOUNTED) and not _is_docstring(value):
                self.write(value)
        self.text.append("]")

    def _constant(self, node: ast.Constant) -> None:
        self.text.append(f"{type(node.value).__name__} {node.value!r};")

    def _annotated(self, node: ast.AnnAssign) -> None:
        """Write an assignment as if it were not annotated, but for a dataclass's fields."""
        if self._scopes and self._scopes[-1].of_class:
            self._node(node)
        elif node.value is not None:
            self._node(ast.Assign(targets=[node.target], value=node.value))

    def _node(self, node: ast.AST, *without: str) -> None:
        self.text.append(f"{type(node).__name__}(")
        for name, value in ast.iter_fields(node):
            # Versions of Python differ in the empty fields that they have.
            if name in _UNCOUNTED_FIELDS or name in without or value is None or value == []:
                continue
            self.text.append(f"{name}=")
            self.write(value)
        self.text.append(")")

    def _raise(self, node: ast.Raise) -> None:
        """Write what is raised, without the words."""
        error = node.exc.func if isinstance(node.exc, ast.Call) else node.exc
        self._node(ast.Raise(exc=error, cause=None))

    @contextmanager
    def _inside(self, scope: _Scope) -> Iterator[None]:
        before = self._scopes
        around = [one for one in before if not one.of_class]  # methods do not see a class's names
        self._scopes = [*(before if scope.of_class else around), scope]
        try:
            yield
        finally:
            self._scopes = before

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) -> None:
        self.text.append(f"{type(node).__name__}(")
        arguments = node.args
        every = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        every += [one for one in (arguments.vararg, arguments.kwarg) if one is not None]
        if not isinstance(node, ast.Lambda):
            self._named(node)
        self.write(arguments)
        body: list[ast.AST] = [node.body] if isinstance(node, ast.Lambda) else [*node.body]
        scope = _Scope(_bound(body, self._package))
        scope.update({argument.arg: None for argument in every})
        with self._inside(scope):
            self.write(body)
        self.text.append(")")

    def _class(self, node: ast.ClassDef) -> None:
        self.text.append("ClassDef(")
        self._named(node)
        self.write(node.bases)
        self.write(node.keywords)
        with self._inside(_ClassScope(_bound(node.body, self._package))):
            self.write(node.body)
        self.text.append(")")

    def _named(self, node: ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) -> None:
        """Write a definition's decorators, and its name unless it is the module's own."""
        self.write(node.decorator_list)
        self.write(node.name if self._scopes else "")

    def _comprehension(
        self, node: ast.ListComp | ast.SetComp | ast.DictComp | ast.GeneratorExp
    ) -> None:
        self.write(node.generators[0].iter)
        targets = [generator.target for generator in node.generators]
        before = self._scopes
        self._scopes = [*before, _Scope(_bound(targets, self._package))]
        self._node(node)
        self._scopes = before

    def _reference(self, node: ast.Name | ast.Attribute) -> None:
        """Write a name with its attributes: one of its scope, of this project, or of another."""
        inner: ast.expr = node
        attributes: list[str] = []
        while isinstance(inner, ast.Attribute):
            attributes.insert(0, inner.attr)
            inner = inner.value
        if not isinstance(inner, ast.Name):
            self.write(inner)
            self.text.append(f".{'.'.join(attributes)};")
            return
        scope = next((scope for scope in reversed(self._scopes) if inner.id in scope), None)
        start = f"{self._own.module}.{inner.id}" if scope is None else scope[inner.id]
        if start is None:
            self.text.append(f"local {'.'.join([inner.id, *attributes])};")
            return
        target, rest = self._sources.resolve(".".join([start, *attributes]))
        if isinstance(target, str):
            own = f"{self._own.module}."
            self.text.append(f"other {target.removeprefix(own)};")
        elif isinstance(target, _Module):  # anything in it may be used
            self.text.append("module;")
            self.used += [_Definition(target.name, name) for name in sorted(target.definitions)]
        elif target == self._own:
            self.text.append(f"self {rest};")
        else:
            self.text.append(f"use {rest};")
            self.used.append(target)


def _is_docstring(node: object) -> bool:
    """Return whether a node is a text that stands by itself: it does nothing wherever it is."""
    return (
        isinstance(node, ast.Expr)
        and isinstance(node.value, ast.Constant)
        and isinstance(node.value.value, str)
    )


def _hashed(*parts: bytes) -> bytes:
    whole = hashlib.sha256()
    for part in parts:
        whole.update(part)
    return whole.digest()
