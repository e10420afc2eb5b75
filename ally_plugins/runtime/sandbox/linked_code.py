"""Code that is imported from an environment and lies elsewhere, as editable installs have it: by path or import hook.

Files of the environment are looked at and nothing is run. Whose files are believed is left to the host.
"""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterable, Iterator
from importlib.machinery import all_suffixes
from typing import Final
from urllib.parse import unquote

from ally_plugins.contract.values.compat import parse_source

from .readable import LARGEST, environment_of, lines_of, names_in

__all__ = ["lies_in", "linked_code", "site_folders"]

_IMPORTED: Final = re.compile(r"import[ \t]+(\w*)")
_FILE_URL: Final = re.compile(r'"url": *"file://(/[^"]*)"')


def site_folders(python: str) -> tuple[str, ...]:
    """Return the folders of what is installed in the environment of a Python, by their names: it is not run."""
    found = [
        f"{library}/{name}/site-packages"
        for library in (f"{environment_of(python)}/{lib}" for lib in ("lib", "lib64"))
        for name in names_in(library)
        if name.startswith("python3")
    ]
    return tuple(filter(os.path.isdir, found))


def linked_code(site_folders: Iterable[str]) -> tuple[str, ...]:
    """Return the code that lies elsewhere and is imported from here, as editable installs have it; nothing is run.

    These are the folders that `.pth` files name, and of the projects that an installer has recorded as editable what
    their import hooks name (setuptools, `editables`). What else such files run is not looked at. Whoever fills an
    environment can name anything there: of one that is a plugin's own, only what the operator has agreed to counts.
    """
    found: dict[str, None] = {}
    for folder in site_folders:
        names = names_in(folder)
        hooks: list[str] = []
        for name in names:
            for line in lines_of(f"{folder}/{name}") if name.endswith(".pth") else ():
                if hook := _IMPORTED.match(line):  # a line that is imported is code, and not a path
                    hooks.append(f"{folder}/{hook[1]}.py")
                elif line and not line.startswith("#"):
                    path = os.path.abspath(os.path.join(folder, line))  # noqa: PTH100, PTH118 - links stay
                    if os.path.isdir(path):  # noqa: PTH112
                        found[path] = None
        hooks = list(filter(os.path.isfile, hooks))
        projects = tuple(_editable_projects(folder, names)) if hooks else ()
        found |= dict.fromkeys(path for hook in hooks for path in _mapped(hook) if lies_in(path, projects))
    return tuple(found)


def lies_in(path: str, folders: Iterable[str]) -> bool:
    """Say whether a path is one of these folders or lies in one, wherever links lead."""
    real = os.path.realpath(path)
    return any(real == each or real.startswith(f"{each}/") for each in map(os.path.realpath, folders))


def _editable_projects(folder: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the projects that an installer has recorded as editable (PEP 610)."""
    for name in names:
        if name.endswith(".dist-info"):
            origin = "".join(lines_of(f"{folder}/{name}/direct_url.json"))
            url = _FILE_URL.search(origin)
            # As pip writes JSON, and as writers without spaces do.
            if url is not None and '"editable":true' in origin.replace(" ", ""):
                yield unquote(url[1])


def _mapped(hook: str) -> Iterator[str]:
    """Yield the files and folders that an import hook names; a module is named without its suffix by some."""
    try:
        with open(hook, "rb") as opened:  # noqa: PTH123
            tree = parse_source(opened.read(LARGEST))
    except (OSError, ValueError, SyntaxError, RecursionError, MemoryError):
        return
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and node.value.startswith("/"):
            candidates = (node.value, *(f"{node.value}{suffix}" for suffix in all_suffixes()))
            yield from (path for path in candidates if "\0" not in path and os.path.exists(path))  # noqa: PTH110
