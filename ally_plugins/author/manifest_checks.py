"""What is wrong with a plugin's manifest and its packaging, each with its line; nothing is imported, nothing is run."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from fnmatch import fnmatch
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.documents import toml_of
from ally_plugins.contract.grants import ANY
from ally_plugins.contract.manifest import MANIFEST_NAME, Manifest
from ally_plugins.contract.values.errors import ManifestError
from ally_plugins.contract.wording import nearest

from .findings import SourceFinding

if TYPE_CHECKING:
    from .project import Project

__all__ = ["check_manifest", "check_packaging", "line_of"]

_TABLE: Final = re.compile(r"\s*\[\[?\s*([^\]]+?)\s*\]\]?\s*(#.*)?$")
_KEY: Final = re.compile(r"\s*([A-Za-z0-9_.\"'-]+)\s*=")
_AT_LINE: Final = re.compile(r"at line (\d+)")
_LEAST: Final = """description = "..."
requires_host = ">=1,<2"
"""


def line_of(text: str, path: str) -> int:
    """Return the line (from 1) in which a TOML text has the key of a dotted path, or the nearest table around it.

    1 where none of it is there.
    """
    wanted = path.split(".")
    lines = _key_lines(text)
    for length in range(len(wanted), 0, -1):
        if (found := lines.get(".".join(wanted[:length]))) is not None:
            return found
    return 1


def _key_lines(text: str) -> Mapping[str, int]:
    found: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.splitlines(), 1):
        if (match := _TABLE.match(line)) is not None and "=" not in line.partition("#")[0]:
            table = re.sub(r"[\"'\s]", "", match[1])
            found.setdefault(table, number)
        elif (key := _KEY.match(line)) is not None:
            name = re.sub(r"[\"']", "", key[1])
            found.setdefault(f"{table}.{name}" if table else name, number)
    return found


def check_manifest(project: Project, known_tools: Collection[str]) -> tuple[Manifest | None, list[SourceFinding]]:
    """Return the manifest, None for one that cannot be read, and what is wrong with it, all at once."""
    file = str(project.manifest_path)
    if not project.manifest_path.is_file():
        where = project.declared_in or project.root
        fix = f"write {file}, with at least: {' '.join(_LEAST.split(chr(10))).strip()}"
        text = f"the plugin {project.name!r} has no manifest, and so nothing that an operator could agree to"
        line = _entry_point_line(project)
        return None, [SourceFinding(str(where), line, "no-manifest", text, fix)]
    text = ""
    try:
        text = project.manifest_bytes().decode("utf-8", "replace")
        manifest = project.read_manifest()
    except ManifestError as error:
        problems = error.problems or (str(error),)
        return None, [_problem(file, text, problem) for problem in problems]
    return manifest, list(_remarks(manifest, file, text, known_tools))


def _problem(file: str, text: str, problem: str) -> SourceFinding:
    if (at := _AT_LINE.search(problem)) is not None:
        return SourceFinding(file, int(at[1]), "manifest", problem, "see the page on the manifest, or a TOML checker")
    path, _, said = problem.partition(": ")
    found, _, fix = said.rpartition(", ")
    is_split = fix.startswith(("did you mean", "expected"))
    line = line_of(text, path)
    return SourceFinding(file, line, "manifest", f"{path}: {found if is_split else said}", fix if is_split else "")


def _remarks(manifest: Manifest, file: str, text: str, known_tools: Collection[str]) -> Iterator[SourceFinding]:
    if not manifest.description:
        yield SourceFinding(file, 1, "description", "the manifest has no description", 'add: description = "..."')
    if (problem := manifest.host_problem()) is not None:
        found, _, _ = problem.partition(";")
        fix = 'requires_host = ">=1,<2"'
        yield SourceFinding(file, line_of(text, "requires_host"), "requires-host", f"it {found}", fix)
    elif not manifest.requires_host:
        said = "requires_host is missing: a later host may have other hooks"
        yield SourceFinding(file, 1, "requires-host", said, 'add: requires_host = ">=1,<2"', "warning")
    for name, setting in manifest.settings.items():
        if not setting.description:
            said = f"the setting {name!r} has no description, and the operator is to set it"
            line = line_of(text, f"settings.{name}")
            yield SourceFinding(file, line, "settings", said, 'add: description = "..."', "warning")
    yield from _strange_tools(manifest, file, text, known_tools)


def _strange_tools(manifest: Manifest, file: str, text: str, known: Collection[str]) -> Iterator[SourceFinding]:
    tools = {grant.target: grant.kind for grant in manifest.grants if grant.kind in ("gate", "transform")
             and grant.target and (grant.kind, grant.topic) != ("gate", "answer")}  # fmt: skip
    for name, kind in sorted(tools.items()):
        if name in known or name == ANY:
            continue
        close = nearest(name, known)
        said = f"no agent that is known has a tool {name!r}, so that its {kind} would not be asked"
        fix = (
            f"did you mean {close!r}?"
            if close
            else "name a common tool (bash, read, write, edit, search, web), or an agent's own"
        )
        # A warning: an agent's own tools, those of MCP servers and of plugins go by any name.
        yield SourceFinding(file, line_of(text, f"permissions.{kind}.tools"), "unknown-tool", said, fix, "warning")


def check_packaging(project: Project) -> Iterator[SourceFinding]:
    """Yield what keeps the plugin, or its manifest, out of the wheel that a build would make."""
    if project.is_folder or project.declared_in is None:
        return
    file, line = str(project.declared_in), _entry_point_line(project)
    if project.code is None:
        text = f"the entry point of {project.name!r} names the module {project.module!r}, which is not there"
        fix = f"write {project.module.replace('.', '/')}/__init__.py, in the project's folder or in src/"
        yield SourceFinding(file, line, "entry-point", text, fix)
        return
    if project.declared_in.name != "pyproject.toml":
        return
    try:
        table = toml_of(project.declared_in.read_bytes())
    except (OSError, ValueError):  # what could not be read was reported when the project was looked for
        return
    backend = str(table.get("build-system", {}).get("build-backend", "setuptools.build_meta"))
    if backend.startswith("setuptools"):
        yield from _setuptools(project, table.get("tool", {}).get("setuptools", {}))
    elif backend.startswith("hatchling"):
        yield from _hatchling(project, table)


def _setuptools(project: Project, table: Mapping[str, Any]) -> Iterator[SourceFinding]:
    """Yield why setuptools would leave the manifest out: it takes Python files, and others only where it is told to."""
    if not project.manifest_path.is_file() or project.code is None or not project.code.is_dir():
        return
    data = table.get("package-data", {})
    patterns = [
        pattern
        for package, globs in (data.items() if isinstance(data, dict) else ())
        if package in ("*", project.module) or project.module.startswith(f"{package}.")
        for pattern in (globs if isinstance(globs, list) else ())
    ]
    if any(fnmatch(MANIFEST_NAME, str(pattern)) for pattern in patterns):
        return
    is_in_manifest = (project.root / "MANIFEST.in").is_file() and _lists_toml(project.root / "MANIFEST.in")
    if table.get("include-package-data", True) and is_in_manifest:
        return
    text = "setuptools leaves the manifest out of the wheel, and what is installed would be no plugin"
    package = project.module.partition(".")[0]
    fix = f'add to pyproject.toml: [tool.setuptools.package-data] {package} = ["{MANIFEST_NAME}"]'
    yield SourceFinding(str(project.declared_in), _entry_point_line(project), "not-in-wheel", text, fix)


def _lists_toml(file: Path) -> bool:
    try:
        words = file.read_text(encoding="utf-8", errors="replace").split()
    except OSError:
        return False
    return any(fnmatch(MANIFEST_NAME, word.rpartition("/")[2]) for word in words)


def _hatchling(project: Project, table: Mapping[str, Any]) -> Iterator[SourceFinding]:
    """Yield why hatchling would leave the code out: it takes a package of the distribution's name, or those listed."""
    wheel = table.get("tool", {}).get("hatch", {}).get("build", {}).get("targets", {}).get("wheel", {})
    if not isinstance(wheel, dict) or project.code is None:
        return
    packages = wheel.get("packages")
    line = _entry_point_line(project)
    if packages is None and not {"include", "only-include", "sources", "force-include"}.intersection(wheel):
        name = re.sub(r"[-_.]+", "_", str(table.get("project", {}).get("name", ""))).lower()
        if project.code.name.removesuffix(".py").lower() != name:
            text = f"hatchling looks for a package {name!r}, and the plugin's is {project.code.name!r}"
            fix = f'add: [tool.hatch.build.targets.wheel] packages = ["{project.code.relative_to(project.root)}"]'
            yield SourceFinding(str(project.declared_in), line, "not-in-wheel", text, fix)
    elif isinstance(packages, list) and not any(Path(str(each)).name == project.code.name for each in packages):
        text = f"the wheel has {', '.join(map(str, packages))}, and the plugin's code is {project.code.name!r}"
        fix = f'packages = ["{project.code.relative_to(project.root)}"]'
        yield SourceFinding(str(project.declared_in), line, "not-in-wheel", text, fix)


def _entry_point_line(project: Project) -> int:
    """Return the line with the plugin's entry point, 0 where there is no file with one."""
    if project.declared_in is None:
        return 0
    try:
        lines = project.declared_in.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return 0
    pattern = re.compile(rf"\s*[\"']?{re.escape(project.name)}[\"']?\s*=.*{re.escape(project.target)}")
    return next((number for number, line in enumerate(lines, 1) if pattern.match(line)), 1)
