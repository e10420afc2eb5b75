"""What a shell's line does to what guards: ours taken away or renamed, another agent started without its hooks."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Final

__all__ = ["is_run_later", "names_ours", "replaces_ours", "why_unhooked"]

_OURS: Final = re.compile(r"(?:python3?-)?ally[-_.]plugins(?:[-_.]contrib)?", re.IGNORECASE)
_PACKAGERS: Final = re.compile(
    r"pip[0-9.]*|uv|uvx|pipx|conda|mamba|micromamba|poetry|pdm|hatch|rye|pixi|apt|apt-get|dnf|yum|pacman|brew|nix-env"
)
_REMOVING: Final = frozenset({"uninstall", "remove", "rm", "purge", "erase", "-R", "-Rs", "-Rns"})
_INSTALLING: Final = frozenset({"install", "add", "sync", "inject", "-S", "-U"})
_ELSEWHERE: Final = re.compile(
    r"(?:-i|-f|-t|--(?:extra-)?index(?:-url)?|--find-links|--target|--default-index)(?:=.*)?"
)
"""Options by which a package comes from, or goes to, another place than by default."""

_FILE: Final = re.compile(r"[/:@\\]|\.whl$|\.gz$|==|<|~=|!=")
"""In what is to be installed: a file, an address, or another version than the newest."""

_INDEX: Final = re.compile(r"(?:PIP|UV)_\w*(?:INDEX|LINKS|TARGET|CONFIG)")

_OPTIONS: Final = {
    "claude": r"--settings|--setting-sources|--bare|--safe-mode",
    "codex": r"-c|-c.+|--config|--disable|-p|--profile|--ignore-user-config|--dangerously-bypass-hook-trust",
    "gemini": r"-e|--extensions",
    "copilot": r"--config-dir|--no-hooks",
    "opencode": r"--pure",
    "pi": r"--no-extensions|-ne",
    "goose": r"--no-profile",
}
"""Each agent's options, as a pattern, that have it run with other hooks than those that it is connected by."""

_PACKAGES: Final = {"claude-code": "claude", "gemini-cli": "gemini", "opencode-ai": "opencode", "pi-coding-agent": "pi"}
"""Of the packages that have another name, the agent."""

_AGENTS: Final[Mapping[str, str]] = _OPTIONS | {package: _OPTIONS[agent] for package, agent in _PACKAGES.items()}

_ELSEWHERE_BY: Final = re.compile(
    r"HOME|USERPROFILE|XDG_CONFIG_HOME|(?:CLAUDE|CODEX|GEMINI|COPILOT|OPENCODE|PI|GOOSE)_\w*"
    r"(?:HOME|DIR|CONFIG|PATH|ROOT|SETTINGS|SIMPLE|DISABLE|PURE)\w*"
)
"""Variables by which an agent finds other settings, or none."""

_EMPTYING: Final = re.compile(r"-i|-|--ignore-environment|-u.*|--unset.*|-[a-zA-Z]*i")
_LATER: Final = re.compile(
    r"/(?:\.(?:bashrc|bash_profile|bash_login|bash_logout|profile|zshrc|zprofile|zshenv|zlogin|kshrc|envrc|login)"
    r"|\.config/(?:fish/.+|autostart/.+|systemd/user/.+|environment\.d/.+)|\.git/hooks/[^/]+|\.husky/[^/]+"
    r"|Library/LaunchAgents/.+|cron(?:tab|\.[a-z]+/.+))$"
)


def replaces_ours(words: Sequence[str], settings: Mapping[str, str]) -> str | None:
    """Return which program of these takes our packages away, or installs something else as them; None for none."""
    names = [PurePosixPath(word).name for word in words[:8]]
    at = next((number for number, name in enumerate(names) if _PACKAGERS.fullmatch(name)), None)
    if at is None or not any(map(_OURS.search, words)):
        return None
    rest = words[at + 1 :]
    named = [word for word in rest if not word.startswith("-") and _OURS.search(word)]
    if _REMOVING & {*rest} and any(_OURS.fullmatch(word) or "*" in word for word in named):
        return names[at]
    if _INSTALLING & {*rest} and named:
        moved = (*map(_ELSEWHERE.fullmatch, rest), *map(_FILE.search, named), *map(_INDEX.match, settings))
        return names[at] if any(moved) else None
    return None


def names_ours(word: str) -> bool:
    """Say whether a word is the path of our program, or its name by which a shell finds it."""
    path = PurePosixPath(word)
    return fnmatchcase("ally-plugins", path.name.lower()) and len(path.name) > len("ally-") and path.parent.name != ""


def is_run_later(path: str) -> bool:
    """Say whether a shell, git or the system runs what is in a file, of its own accord."""
    return _LATER.search(path) is not None


def why_unhooked(words: Sequence[str], settings: Mapping[str, str]) -> str | None:
    """Return why an agent that these words start may run without its hooks, None for no agent or with them.

    `settings` are the variables that the line has set before; `words` begin with what runs the agent, as `env` does.
    """
    names = [_agent_named(word) for word in words]
    at = next((number for number, name in enumerate(names) if name in _AGENTS), None)
    if at is None or (words[at - 1] not in _RUN_BY_FIND and not all(map(_may_precede, pairwise(["", *words[:at]])))):
        return None
    agent, before = names[at], words[:at]
    if name := next(filter(_ELSEWHERE_BY.fullmatch, [*settings, *(word.partition("=")[0] for word in before)]), None):
        return f"{agent} would be started with another {name}, and need not find the hooks that guard it"
    if other := {PurePosixPath(word).name for word in before} & _AS_ANOTHER:
        return f"{agent} would be started by {min(other)} as another user, for whom no hooks may guard it"
    if any(PurePosixPath(word).name == "env" for word in before) and any(map(_EMPTYING.fullmatch, before)):
        return f"{agent} would be started without its environment, and need not find the hooks that guard it"
    pattern = re.compile(rf"(?:{_AGENTS[agent]})(?:=.*)?", re.DOTALL)
    if (option := next(filter(pattern.fullmatch, words[at + 1 :]), None)) is not None:
        return f"{agent} with {option:.80} may run without the hooks that guard it; the person runs it, in a terminal"
    return None


def _agent_named(word: str) -> str:
    path = PurePosixPath(word)
    if path.suffix in _SCRIPTS:  # what a package of an agent is started by: `node .../claude-code/cli.js`
        return next((part for part in path.parts if part in _AGENTS), "")
    return PurePosixPath(word.partition("@")[0] or word[1:].partition("@")[0]).name  # without a version


_SCRIPTS: Final = frozenset({".js", ".mjs", ".cjs"})
_AS_ANOTHER: Final = frozenset({"sudo", "doas", "su", "runuser"})
_RUN_BY_FIND: Final = frozenset({"-exec", "-execdir", "-ok", "-okdir", "-x", "-X", "--exec"})
_RUNNERS: Final = frozenset(
    {"env", "sudo", "doas", "nohup", "setsid", "time", "timeout", "nice", "exec", "command", "npx", "bunx", "pnpm",
     "yarn", "dlx", "npm", "bun", "x", "run", "stdbuf", "xargs", "uvx", "script", "su", "runuser", "node",
     "deno"}
)  # fmt: skip


def _may_precede(words: tuple[str, str]) -> bool:
    """Say whether a word may stand before a program that it runs: what does, its options, settings and numbers.

    `words` are the one before it, of which it may be the value, and itself.
    """
    option, word = words
    name = PurePosixPath(word).name
    return (
        name in _RUNNERS
        or word.startswith("-")
        or "=" in word
        or option.startswith("-")
        or word.rstrip("smhd.").isdigit()
    )
