"""A plugin's Python sources as they are written: its class with hooks, tools and calls. Read, and never imported."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from attrs import Factory, define, frozen

from ally_plugins.contract.values.compat import parse_source

from .findings import SourceFinding

if TYPE_CHECKING:
    from .project import Project

__all__ = ["Call", "Function", "Sources", "read_sources"]

_MAX_BYTES: Final = 1024 * 1024  # of a source; nobody writes a larger one by hand
_MARKS: Final = frozenset({"hookimpl", "tool", "action"})

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


@frozen
class Function:
    """A method of the plugin's class. `marks` are our decorators on it, each with its keywords that are literals."""

    file: Path
    node: FunctionNode
    marks: dict[str, dict[str, Any]]

    @property
    def name(self) -> str:
        """Its name as it is written."""
        return self.node.name

    @property
    def line(self) -> int:
        """The line of its `def`."""
        return self.node.lineno


@frozen
class Call:
    """A call with its dotted name, as it would be after the file's imports: `time.sleep`, `self.ally.add_message`."""

    file: Path
    node: ast.Call
    name: str
    is_in_async: bool
    """Whether it stands in a coroutine itself, and in no plain function or lambda within."""


@define
class Sources:
    """All of a plugin's sources. `methods` are those of its class and of its bases in the project."""

    findings: list[SourceFinding] = Factory(list)
    trees: list[tuple[Path, ast.Module]] = Factory(list)
    classes: dict[str, tuple[Path, ast.ClassDef]] = Factory(dict)
    methods: dict[str, Function] = Factory(dict)
    calls: list[Call] = Factory(list)
    plugin: tuple[Path, ast.ClassDef] | None = None


def read_sources(project: Project) -> Sources:
    """Read and parse every Python file of a plugin; one that cannot be is a finding."""
    sources = Sources()
    for file in project.sources():
        try:
            with file.open("rb") as opened:
                tree = parse_source(opened.read(_MAX_BYTES), str(file))
        except SyntaxError as error:
            fix = f"near: {(error.text or '').strip()}" if error.text else ""
            sources.findings.append(SourceFinding(str(file), error.lineno or 0, "syntax", f"{error.msg}", fix))
            continue
        except (OSError, ValueError, RecursionError) as error:
            sources.findings.append(SourceFinding(str(file), 0, "syntax", f"it cannot be read: {error}"))
            continue
        sources.trees.append((file, tree))
        # In the order of the files; of two classes with one name the entry point's own module is looked at first.
        for node in ast.walk(tree):
            if isinstance(node, ast.ClassDef):
                sources.classes.setdefault(node.name, (file, node))
        sources.calls += _calls(file, tree)
    if project.class_name:
        _find_plugin(project, sources)
    return sources


def _find_plugin(project: Project, sources: Sources) -> None:
    """Find the class that the entry point names, and the methods that it has."""
    own = [project.base.joinpath(*project.module.split("."))]
    places = {own[0] / "__init__.py", own[0].with_suffix(".py")}
    name = project.class_name.rpartition(".")[2]
    for file, tree in sources.trees:
        if file in places:
            for node in tree.body:
                if isinstance(node, ast.ClassDef):
                    sources.classes[node.name] = (file, node)
                # `from ._plugin import Real as LoopWarner`, whose class goes by another name.
                for alias in node.names if isinstance(node, ast.ImportFrom) else ():
                    if alias.asname == name and alias.name in sources.classes:
                        name = alias.name
    sources.plugin = sources.classes.get(name)
    for file, cls in reversed(list(_line_of_descent(name, sources, set()))):
        for node in cls.body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                sources.methods[node.name] = Function(file, node, _marks(node))


def _line_of_descent(name: str, sources: Sources, seen: set[str]) -> Iterator[tuple[Path, ast.ClassDef]]:
    if name in seen or name not in sources.classes:
        return
    seen.add(name)
    file, cls = sources.classes[name]
    yield file, cls
    for base in cls.bases:
        yield from _line_of_descent(_dotted(base).rpartition(".")[2], sources, seen)


def _marks(node: FunctionNode) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for decorator in node.decorator_list:
        called = decorator if isinstance(decorator, ast.Call) else None
        name = _dotted(called.func if called is not None else decorator).rpartition(".")[2]
        if name in _MARKS:
            keywords = called.keywords if called is not None else []
            found[name] = {each.arg: _literal(each.value) for each in keywords if each.arg is not None}
    return found


def _literal(node: ast.expr) -> Any:
    """Return the value of a literal, None for what is none."""
    try:
        return ast.literal_eval(node)
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _dotted(node: ast.AST) -> str:
    """Return `a.b.c` for such an expression, empty for any other; a call or an index on the way is passed over."""
    parts: list[str] = []
    while not isinstance(node, ast.Name):
        if isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        elif isinstance(node, (ast.Call, ast.Subscript)):
            node = node.func if isinstance(node, ast.Call) else node.value
        else:
            return ".".join(reversed(parts))
    return ".".join(reversed([*parts, node.id]))


def _calls(file: Path, tree: ast.Module) -> Iterator[Call]:
    imported = _imported(tree)
    stack: list[tuple[ast.AST, bool]] = [(tree, False)]
    while stack:
        node, is_in_async = stack.pop()
        if isinstance(node, ast.Call):
            first, dot, rest = _dotted(node.func).partition(".")
            yield Call(file, node, imported.get(first, first) + dot + rest, is_in_async)
        children: Iterable[ast.AST] = ast.iter_child_nodes(node)
        if isinstance(node, (ast.FunctionDef, ast.Lambda, ast.ClassDef)):
            is_in_async = False
        elif isinstance(node, ast.AsyncFunctionDef):
            is_in_async = True
        stack += [(child, is_in_async) for child in children]


def _imported(tree: ast.Module) -> dict[str, str]:
    """Return what each imported name stands for."""
    found: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                found[alias.asname or alias.name.partition(".")[0]] = (
                    alias.name if alias.asname else alias.name.partition(".")[0]
                )
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            for alias in node.names:
                found[alias.asname or alias.name] = f"{node.module}.{alias.name}"
    return found
