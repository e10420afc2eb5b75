"""The dependencies of a plugin: what is installed for it, where, and what has to be run for that.

`runtime: "python3"` is a virtual environment below the home, `runtime: "node"` a folder with `node_modules`. Nothing is
run here but what `environments.build` runs, after the operator has agreed to `downloads`. What is installed is bound to
the content of the dependency file and to the command, so that a change of either needs a new consent.
"""

from __future__ import annotations

import hashlib
import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson
from attrs import evolve, frozen

from ally_plugins.catalog.discovery.bridge import Building
from ally_plugins.catalog.environments import build as environments
from ally_plugins.catalog.home.folder import Home, read_capped
from ally_plugins.contract.documents import text_of
from ally_plugins.contract.process_spec import running_python
from ally_plugins.contract.values.codec import decode
from ally_plugins.contract.values.errors import OperatorError

if TYPE_CHECKING:
    from .plugin import CodeAllyPlugin, Dependencies

__all__ = ["InstalledDependencies", "downloads", "find_dependencies", "install", "plan_install"]

_MAX_FILE: Final = 1024 * 1024
_MARKER: Final = ".complete"
_IN_FOLDER: Final = 'cd "$1" && PATH="$2:$PATH" exec /bin/sh -c "$3"'
"""Runs a command of the author's in a folder, with the programs of its environment first.

Paths and command are arguments of the shell: put into the text, each would have to be quoted."""

_PLACE: Final = re.compile(r"""(["']?)(\{pip\}|\{envPath\})\1""")
"""What Code-Ally replaces in a command of the author's, and the quotes that an author has put around it."""

_INSTALLED: Final = (
    "dependencies", "devDependencies", "optionalDependencies", "peerDependencies", "workspaces", "scripts",
)  # fmt: skip
"""Keys of a `package.json` for which `npm install` does something."""

# With a `bin`, in which `environments.build` looks for scripts, and the lock file, without which npm picks versions
# anew.
_COPY: Final = 'mkdir -p "$1/bin" && cp "$2" "$1/package.json" && { [ ! -f "$3" ] || cp "$3" "$1/package-lock.json"; }'


@frozen(kw_only=True)
class InstalledDependencies:
    """What a plugin's commands are run with. `problem` is why they cannot be, empty when they can."""

    python: str = ""
    node_path: str = ""
    problem: str = ""

    @property
    def variables(self) -> dict[str, str]:
        """What is set for the plugin's processes."""
        return {"NODE_PATH": self.node_path} if self.node_path else {}


def downloads(plugin: CodeAllyPlugin) -> tuple[str, ...]:
    """Return for the operator, uncut, what installing would run and from which lines; nothing without dependencies."""
    dependencies = _needed(plugin)
    if dependencies is None:
        return ()
    if plugin.runtime == "python3":
        first, usual = "python3 -m venv ENVIRONMENT", f"ENVIRONMENT/bin/python -m pip install -r {dependencies.file}"
    else:
        first, usual = f"cp {dependencies.file or 'package.json'} ENVIRONMENT", "npm install --prefix ENVIRONMENT"
    command = f"sh -c {shlex.quote(dependencies.install_command)}" if dependencies.install_command else usual
    lines = _lines(_content(plugin) or b"")
    return (first, command, *(f"{dependencies.file}: {line}" for line in lines if line.strip()))


def find_dependencies(home: Home, plugin: CodeAllyPlugin) -> InstalledDependencies:
    """Return what is installed for a plugin; its `problem` is why that cannot be used. Raises nothing."""
    if _needed(plugin) is None:
        return InstalledDependencies()
    place = _place(home, plugin)
    try:
        found = read_capped(place / _MARKER, 64 * 1024)
        is_same = found is not None and tuple(orjson.loads(found)["requirements"]) == _bound_to(plugin)
    # A damaged marker: something was installed, and nobody knows what.
    except (OSError, ValueError, KeyError, TypeError):
        found, is_same = b"", False
    if not is_same:
        state = "are not installed" if found is None else "have changed since they were installed"
        return InstalledDependencies(
            problem=f"its dependencies {state}; to install them: ally-plugins env {plugin.name}"
        )
    if plugin.runtime == "node":
        return InstalledDependencies(node_path=str(place / "node_modules"))
    return InstalledDependencies(python=str(environments.python_in(place)))


def plan_install(home: Home, plugin: CodeAllyPlugin) -> Building | None:
    """Return what installing would run, None when nothing is to be installed.

    Raises OperatorError when the dependency file cannot be read, or there is no Python to build with.
    """
    dependencies = _needed(plugin)
    if dependencies is None:
        return None
    if dependencies.file and not (Path(plugin.folder) / dependencies.file).is_file():
        raise OperatorError(f"{plugin.name!r} has no file {dependencies.file!r}, which its plugin.json names")
    building = _python(home, plugin) if plugin.runtime == "python3" else _node(home, plugin)
    if dependencies.install_command:
        building = evolve(building, commands=_own_commands(plugin, building))
    return evolve(building, requirements=_bound_to(plugin))


def install(home: Home, plugin: CodeAllyPlugin, write: Callable[[str], object]) -> InstalledDependencies:
    """Install what the operator has agreed to, once; what is there already is left alone.

    Making the environment may take 60 s, installing 5 min; both end with everything that they have started. Blocks.
    Raises OperatorError when a command fails or takes longer; then what was there before is untouched.
    """
    found = find_dependencies(home, plugin)
    building = plan_install(home, plugin) if found.problem else None
    if building is None:
        return found
    environments.build(home, building, write)
    return find_dependencies(home, plugin)


def _python(home: Home, plugin: CodeAllyPlugin) -> Building:
    file = plugin.dependencies.file if plugin.dependencies is not None else ""
    return environments.plan(home, plugin.name, ("-r", f"{plugin.folder}/{file}") if file else ())


def _node(home: Home, plugin: CodeAllyPlugin) -> Building:
    place = _place(home, plugin)
    beside = environments.plan(home, plugin.name, ()).beside
    file = plugin.dependencies.file if plugin.dependencies is not None else ""
    copy = ("/bin/sh", "-c", _COPY, "sh", str(beside), f"{plugin.folder}/{file or 'package.json'}",
            f"{plugin.folder}/package-lock.json")  # fmt: skip
    # No audit, which sends the list of packages to the registry; and no advertising in the output.
    npm = ("npm", "install", "--prefix", str(beside), "--no-audit", "--no-fund")
    return Building(name=place.name, path=place, beside=beside, requirements=(), commands=(copy, npm))


def _own_commands(plugin: CodeAllyPlugin, building: Building) -> tuple[tuple[str, ...], ...]:
    """Return the commands with the author's own in the place of the usual one.

    It finds `pip` in a virtual environment that it made itself (uv's has none). npm writes where it runs, and nothing
    is to be written to a folder that was agreed to: so it runs in the environment.
    """
    written = plugin.dependencies.install_command if plugin.dependencies is not None else ""
    programs = str(environments.python_in(building.beside).parent)
    places = {"{pip}": f"{programs}/pip", "{envPath}": str(building.beside)}
    command = _PLACE.sub(lambda found: shlex.quote(places[found[2]]), written)
    if plugin.runtime == "node":
        return building.commands[0], ("/bin/sh", "-c", _IN_FOLDER, "sh", str(building.beside), programs, command)
    # By venv also where there is uv, whose environments have no pip for the author's command.
    create = (running_python(), "-m", "venv", str(building.beside))
    return create, ("/bin/sh", "-c", _IN_FOLDER, "sh", plugin.folder, programs, command)


def _place(home: Home, plugin: CodeAllyPlugin) -> Path:
    # No plugin can have a name with a dot, so that the two kinds of environment never collide.
    return home.envs_dir / (f"{plugin.name}.node" if plugin.runtime == "node" else plugin.name)


def _bound_to(plugin: CodeAllyPlugin) -> tuple[str, ...]:
    command = plugin.dependencies.install_command if plugin.dependencies is not None else ""
    # The NUL keeps what ends the file apart from what begins the command; a command has none.
    digest = hashlib.sha256((_content(plugin) or b"") + b"\0" + command.encode()).hexdigest()
    return ("plugin.json", f"sha256:{digest}")


def _content(plugin: CodeAllyPlugin) -> bytes | None:
    """Return what stands in its dependency file; None when there is none, or it cannot be read."""
    file = plugin.dependencies.file if plugin.dependencies is not None else ""
    if not file:
        return b""
    try:
        return read_capped(str(Path(plugin.folder) / file), _MAX_FILE)
    except OSError:
        return None


def _needed(plugin: CodeAllyPlugin) -> Dependencies | None:
    """Return its dependencies, None where they install nothing: many authors ship a file of comments."""
    dependencies = plugin.dependencies
    if dependencies is None or plugin.runtime is None:
        return None
    # What a command installs is not in the file. A file that cannot be read goes on, to be reported.
    content = None if dependencies.install_command else _content(plugin)
    if content is None:
        return dependencies
    is_something = _names_packages(content) if plugin.runtime == "node" else _names_requirements(content)
    return dependencies if is_something else None


def _names_requirements(content: bytes) -> bool:
    return any(line.strip() and not line.lstrip().startswith("#") for line in _lines(content))


def _names_packages(content: bytes) -> bool:
    try:
        package = decode(text_of(content))
    except ValueError:
        return True  # npm says what is wrong with it
    return not isinstance(package, dict) or any(package.get(key) for key in _INSTALLED)


def _lines(content: bytes) -> list[str]:
    try:
        return text_of(content).splitlines()
    except UnicodeDecodeError:
        # Shown before the consent all the same; pip will say what is wrong with it.
        return content.decode("utf-8", "replace").splitlines()
