"""Environments that a tool made for one program, `uv tool` or `pipx`, and how something is added so that it stays.

An upgrade by `uv tool` removes from such an environment whatever its receipt does not name, and `pipx reinstall` makes
a new one of what it has noted: what is installed beside them is gone then. So it is the tool that has to install.
"""

from __future__ import annotations

import re
import shutil
import sys
import tomllib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from ally_plugins.catalog.home.folder import read_capped
from ally_plugins.contract.values.errors import OperatorError

__all__ = ["Managed", "Tool", "find_tool"]

_UV_RECEIPT: Final = "uv-receipt.toml"
_PIPX_RECORD: Final = "pipx_metadata.json"
_MAX_RECEIPT: Final = 1024 * 1024

_SEPARATORS: Final = re.compile(r"[-_.]+")

_WITH_VALUE: Final = {
    "-e": "--with-editable",
    "--editable": "--with-editable",
    "-r": "--with-requirements",
    "--requirement": "--with-requirements",
    "-c": "--constraints",
    "--constraint": "--constraints",
    "-i": "--default-index",
    "--index-url": "--default-index",
    "--extra-index-url": "--index",
    "-f": "--find-links",
    "--find-links": "--find-links",
}
"""Options of pip that have a value, and what `uv tool install` calls them."""


@frozen
class Managed:
    """A command of the tool that owns this environment, and the variables that make it this one."""

    command: tuple[str, ...]
    env: Mapping[str, str]


@frozen
class Tool:
    """The tool that made this environment: `uv` or `pipx`; `folder` is the environment."""

    name: str
    folder: Path

    def install(self, requirements: Sequence[str], beside: Iterable[tuple[str, ...]] = ()) -> Managed:
        """Return the command that installs these so that they stay; pip's options may be among them.

        `beside` are arguments for what lies in the environment already, and no receipt names it. Raises OperatorError.
        """
        if self.name == "pipx":
            options = [each for each in requirements if each.startswith("-")]
            names = [each for each in requirements if not each.startswith("-")]
            if any(each in _WITH_VALUE for each in options):
                taken = ", ".join(each for each in options if each in _WITH_VALUE)
                raise OperatorError(f"pipx takes no {taken} here; run: pipx inject {self.folder.name} --help")
            arguments = [f"--pip-args={' '.join(options)}"] if options else []
            return self._managed("inject", *arguments, self.folder.name, *names)
        more = [word for each in (requirements, *beside) for word in _uv_arguments(each)]
        return self._uv(self._receipt(), more)

    def uninstall(self, distributions: Sequence[str]) -> Managed:
        """Return the command that takes these out so that they stay away. Raises OperatorError."""
        if self.name == "pipx":
            return self._managed("uninject", self.folder.name, *distributions)
        receipt, gone = self._receipt(), {_normal(each) for each in distributions}
        first, *others = receipt["requirements"]
        if _normal(first["name"]) in gone:
            name = first["name"]
            raise OperatorError(f"{name!r} is what the environment is for; to remove it: uv tool uninstall {name}")
        kept = [each for each in others if _normal(each["name"]) not in gone]
        return self._uv({**receipt, "requirements": [first, *kept]}, ())

    def names(self) -> frozenset[str]:
        """Return the distributions that an upgrade keeps, as the receipt names them. Raises OperatorError."""
        if self.name == "pipx":
            return frozenset()
        return frozenset(_normal(each["name"]) for each in self._receipt()["requirements"])

    def _managed(self, *arguments: str, **env: str) -> Managed:
        program = shutil.which(self.name)
        if program is None:
            way_out = f"put {self.name} on the PATH"
            text = f"{self.name} made this program's environment, and would remove what is installed without it"
            raise OperatorError(f"{text}; {way_out}")
        env = env or {"PIPX_HOME": str(self.folder.parent.parent)}
        return Managed((program, *arguments), env)

    def _receipt(self) -> dict[str, Any]:
        file = self.folder / _UV_RECEIPT
        try:
            found = tomllib.loads((read_capped(file, _MAX_RECEIPT) or b"").decode())["tool"]
            # Whatever is missing is found here, and nowhere below.
            _first, *_others = [each["name"].lower() for each in found["requirements"]]
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            text = f"{str(file)!r}, by which uv keeps this environment, is damaged: {error}"
            raise OperatorError(f"{text}; install anew: uv tool install ally-plugins --with PLUGIN") from error
        return dict(found)

    def _uv(self, receipt: Mapping[str, Any], more: Sequence[str]) -> Managed:
        first, *others = receipt["requirements"]
        arguments = list(_spec(first))
        for each in others:
            spec = list(_spec(each))
            arguments += ["--with-editable", spec[-1]] if spec[0] == "--editable" else ["--with", *spec]
        if isinstance(receipt.get("python"), str):
            arguments += ["--python", receipt["python"]]
        arguments += _options(receipt.get("options", {}))
        env = {"UV_TOOL_DIR": str(self.folder.parent)}
        for each in receipt.get("entrypoints", ()):
            env["UV_TOOL_BIN_DIR"] = str(Path(each["install-path"]).parent)
        return self._managed("tool", "install", *arguments, *more, **env)


def find_tool(prefix: str = "") -> Tool | None:
    """Return the tool that made the environment of this program, None for one that a person made."""
    folder = Path(prefix or sys.prefix)
    if (folder / _UV_RECEIPT).is_file():
        return Tool("uv", folder)
    return Tool("pipx", folder) if (folder / _PIPX_RECORD).is_file() else None


def _normal(name: str) -> str:
    return _SEPARATORS.sub("-", name).lower()


def _uv_arguments(requirements: Sequence[str]) -> Iterator[str]:
    """Return pip's arguments as `uv tool install` takes them beside the tool."""
    words = iter(requirements)
    for word in words:
        if word in _WITH_VALUE:
            yield from (_WITH_VALUE[word], next(words, ""))
        elif word in {"--upgrade", "-U"}:
            yield "--upgrade"
        elif word.startswith("-"):
            yield word
        else:
            yield from ("--with", word)


def _spec(requirement: Mapping[str, Any]) -> Iterator[str]:
    """Return a requirement of the receipt as an argument."""
    name, extras = requirement["name"], requirement.get("extras", ())
    named = f"{name}[{','.join(extras)}]" if extras else name
    if "editable" in requirement:
        yield from ("--editable", str(requirement["editable"]))
    elif where := next((requirement[key] for key in ("url", "path", "directory") if key in requirement), None):
        yield f"{named} @ {where}" if "://" in str(where) else str(where)
    elif "git" in requirement:
        yield f"{named} @ git+{requirement['git']}"
    else:
        yield named + str(requirement.get("specifier", ""))


def _options(options: Mapping[str, Any]) -> Iterator[str]:
    """Return the options of the receipt, with which the environment was made."""
    for name, value in options.items():
        if name == "index":
            for each in value:
                yield from ("--default-index" if each.get("default") else "--index", str(each["url"]))
        elif value is True:
            yield f"--{name}"
        elif isinstance(value, (str, list)):
            for each in [value] if isinstance(value, str) else value:
                yield from (f"--{name}", str(each))
