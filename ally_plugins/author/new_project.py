"""A new plugin's project, written from the templates beside this module: installable, and green as it comes out.

A template is a `string.Template` whose lines from `%% WORDS` to `%% end` are kept where all the words hold: `gate and
not tool`.
"""

from __future__ import annotations

import json
import keyword
import os
import re
import sys
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Final, Literal

from attrs import frozen

from ally_plugins.contract.grants import is_plugin_name
from ally_plugins.contract.values.errors import ConfigError, OperatorError
from ally_plugins.contract.wording import describe

from .typescript import protocol_types

__all__ = ["Kind", "Language", "NewProject"]

Kind = Literal["class", "daemon"]
Language = Literal["python", "node", "sh"]

_PUBLISHED: Final = re.compile(r"[a-z0-9]([a-z0-9_-]*[a-z0-9])?\Z")
"""What a distribution may be called, of what a plugin may be: its name on PyPI is the same."""

_RESERVED: Final = frozenset({"ally_plugins", "ally_plugins_contrib", "pytest", "src", "tests"})

_PROGRAMS: Final[Mapping[Language, tuple[str, str]]] = {
    "python": ("python3", "daemon.py"),
    "node": ("node", "daemon.js"),
    "sh": ("sh", "daemon.sh"),
}


@frozen(kw_only=True)
class NewProject:
    """What is to be written. Raises ConfigError for what can be none."""

    name: str
    kind: Kind = "class"
    language: Language = "python"
    has_gate: bool = False
    has_tool: bool = True

    def __attrs_post_init__(self) -> None:
        if (problem := _name_problem(self.name)) is not None:
            raise ConfigError(f"no plugin can be called {describe(self.name)}: {problem}")
        if self.kind == "class" and self.language != "python":
            raise ConfigError(f"a class is Python, found the language {self.language!r}; expected --kind daemon")

    @property
    def module(self) -> str:
        """The name of the package that is imported."""
        return self.name.replace("-", "_")

    @property
    def class_name(self) -> str:
        """The name of the plugin's class."""
        return "".join(part[:1].upper() + part[1:] for part in re.split(r"[-_]+", self.name))

    def texts(self) -> dict[str, str]:
        """Return the text of each file, by its path in the project."""
        package = f"src/{self.module}"
        made = {
            "pyproject.toml": self._rendered("common/pyproject.toml"),
            "README.md": self._rendered("common/README.md"),
            ".gitignore": self._rendered("common/gitignore"),
            ".github/workflows/ci.yml": self._rendered("common/ci.yml"),
            ".github/workflows/publish.yml": self._rendered("common/publish.yml"),
            f"{package}/ally-plugin.toml": self._rendered("common/ally-plugin.toml"),
        }
        tests = f"tests/test_{self.module}.py"
        if self.kind == "class":
            code = {f"{package}/__init__.py": self._rendered("class/plugin.py")}
            return made | code | {tests: self._rendered("class/test_plugin.py")}
        made[f"{package}/__init__.py"] = self._rendered("common/init.py")
        program = _PROGRAMS[self.language][1]
        source = "class/plugin.py" if self.language == "python" else f"{self.language}/{program}"
        made[f"{package}/{program}"] = self._rendered(source)
        if self.language == "node":
            made[f"{package}/protocol.d.ts"] = protocol_types()
        return made | {tests: self._rendered("common/test_daemon.py")}

    def write(self, folder: Path) -> list[Path]:
        """Write the project into a folder that is not there yet, or empty; return its files.

        Raises OperatorError when something is there, and OSError.
        """
        try:
            folder.mkdir(parents=True, exist_ok=True)
            if any(folder.iterdir()):
                text = f"{str(folder)!r} is not empty, and nothing in it is overwritten; choose another name or folder"
                raise OperatorError(text)
        except (FileExistsError, NotADirectoryError):
            text = f"{str(folder)!r} cannot be made: a file is in the way; choose another name or folder"
            raise OperatorError(text) from None
        written = []
        for path, text in self.texts().items():
            file = folder / path
            file.parent.mkdir(parents=True, exist_ok=True)
            # "x": what somebody else has put there meanwhile is not overwritten either.
            with file.open("x", encoding="utf-8", newline="\n") as opened:
                opened.write(text)
            if file.suffix == ".sh":
                os.chmod(file, 0o755)  # noqa: PTH101, S103 - a program
            written.append(file)
        return written

    def _rendered(self, template: str) -> str:
        text = files("ally_plugins.author").joinpath("templates", f"{template}.tmpl").read_text(encoding="utf-8")
        words = {
            "daemon": self.kind == "daemon",
            "gate": self.has_gate,
            "tool": self.has_tool,
            "node": self.language == "node",
            # In the sandbox, where it runs by default, a program starts no other that it was not granted.
            "sh": self.language == "sh",
        }
        return Template(_kept(text, words)).substitute(self._values())

    def _values(self) -> dict[str, str]:
        command = _PROGRAMS[self.language]
        hooks = ["ally_tool_call_end", *(["ally_gate_tool_call"] if self.has_gate else [])]
        offer = {
            "name": f"{self.module}_failures",
            "description": "Tell how often each tool has failed.",
            "schema": {"type": "object", "properties": {}},
        }
        tools = "," + json.dumps({"tools": [offer]}, separators=(",", ":"))[1:-1] if self.has_tool else ""
        return {
            "name": self.name,
            "module": self.module,
            "class_name": self.class_name,
            "target": f"{self.module}:{self.class_name}" if self.kind == "class" else self.module,
            "command": json.dumps(list(command)),
            "program": command[1],
            "hooks": json.dumps(hooks)[1:-1].replace(" ", ""),
            "tools": tools,
        }


def _kept(text: str, words: Mapping[str, bool]) -> str:
    """Return a template's lines without those whose condition does not hold, and without the conditions."""
    lines, is_kept = [], True
    for line in text.splitlines(keepends=True):
        if not line.startswith("%% "):
            lines += [line] if is_kept else []
        elif line.strip() == "%% end":
            is_kept = True
        else:
            terms = line.removeprefix("%% ").strip().split(" and ")
            is_kept = all(words[term.removeprefix("not ")] != term.startswith("not ") for term in terms)
    return "".join(lines)


def _name_problem(name: str) -> str | None:
    if not is_plugin_name(name) or _PUBLISHED.match(name) is None:
        return "expected lower-case letters, digits, '-' and '_', with a letter or digit at both ends"
    module = name.replace("-", "_")
    if not module.isidentifier():
        return f"its package would be {module!r}, and no module's name begins with a digit"
    if keyword.iskeyword(module) or keyword.issoftkeyword(module):
        return f"its package would be {module!r}, which is a word of Python"
    if module in sys.stdlib_module_names or module in _RESERVED:
        return f"its package would be {module!r}, which hides a module of that name"
    return None
