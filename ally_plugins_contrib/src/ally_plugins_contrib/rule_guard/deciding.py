"""What the rules say of a call: the strictest effect of all rules that mean any part of it. No host in here.

A deny or ask counts where it *may* be meant as long as it names a command: `rm -rf $X` may be `rm -rf ~`. An allow
counts where all of a part is known and meant, and takes nothing back that another rule says.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import Any, Final

from .commands import Shell
from .places import Places, host_matches, is_name, located, path_matches
from .programs import URL, Action, actions_of, name_of
from .rules import EFFECTS, Rule, RulesFile, built_in
from .script import MAX_FOLDERS
from .words import MANY, ONE, UNSEEN, is_known, is_unseen, overlaps

__all__ = ["Call", "Decision", "Rules", "call_of", "decide"]

SHELL_TOOLS: Final = frozenset({
    "bash", "sh", "shell", "zsh", "terminal", "run_shell_command", "exec_command", "execute_command", "run_command",
    "run_terminal_cmd", "local_shell", "container.exec", "run_in_terminal", "developer__shell",
})  # fmt: skip
"""What agents call their shell, for one whose adapter does not say so."""

_NO_SHELLS: Final = frozenset({"read", "write", "edit", "search", "web", "agent", "todo"})
"""Tools whose `command` is not a shell's."""

_COMMAND_ARGUMENTS: Final = ("command", "cmd", "commands", "script", "shell_command")
_WORDS_ARGUMENT: Final = ("args", "arguments", "argv")
_FOLDER_ARGUMENT: Final = re.compile(r"cwd|work(?:ing)?_?dir(?:ectory)?|directory|dir|dir_path", re.IGNORECASE)
_PATH_ARGUMENT: Final = re.compile(
    r"(?:.*_)?(?:path|paths|file|files|filename|dir|directory|folder|glob|include|cwd|workdir)\Z"
)
_PATCHED: Final = re.compile(r"^\*\*\* (?:(?:Add|Update|Delete) File|Move to): (.+)$", re.MULTILINE)

_GIT_VALUED: Final = frozenset({"-C", "-c", "--git-dir", "--work-tree", "--namespace", "--exec-path", "--config-env"})

MAX_TEXTS: Final = 20_000
"""Texts within the arguments of one call in which hosts are looked for."""


class Match(IntEnum):
    """Whether a rule means a part of a call."""

    NO = 0
    MAYBE = 1
    YES = 2


@dataclass(frozen=True)
class Call:
    """A tool call as rules see it: the names of its tool, and the parts of what it would do."""

    tools: tuple[str, ...]
    actions: tuple[Action, ...]
    shell: Shell
    """What is known of the shell after it."""


@dataclass(frozen=True)
class Decision:
    """The effect, `none` where no rule means the call, and the rule that it comes from."""

    effect: str
    rule: Rule | None = None
    is_guess: bool = False
    """Whether it cannot be seen before it runs that the rule means it."""

    @property
    def reason(self) -> str:
        """What the agent and the person read."""
        if self.rule is None:
            return f"no rule allows this; what no rule means is {self.effect!r} (`otherwise`)"
        why = f": {self.rule.reason}" if self.rule.reason else ""
        guess = "what it is about cannot be seen before it runs, and it may be " if self.is_guess else ""
        return f"{guess}rule {self.rule.name!r} ({self.rule.source}){why}"


@dataclass(frozen=True)
class Rules:
    """All rules that hold for a session: the built-in ones, the person's, the repository's."""

    rules: tuple[Rule, ...]
    otherwise: str

    @classmethod
    def of(cls, own: RulesFile | None, projects: Iterable[tuple[RulesFile, bool]]) -> Rules:
        """Put files together; each of a project's is trusted or not, and one that is not can only tighten."""
        own = own or RulesFile()
        effects, otherwise, rules = dict(own.builtin), own.otherwise, list(own.rules)
        for file, is_trusted in projects:
            rules += [rule for rule in file.rules if is_trusted or rule.effect != "allow"]
            otherwise = max(otherwise, file.otherwise, key=EFFECTS.index)
            for name, effect in file.builtin.items():
                before = effects.get(name, _built_in_effect(name))
                if is_trusted or _strictness(effect) > _strictness(before):
                    effects[name] = effect
        built = [replace(rule, effect=effects.get(rule.name, rule.effect)) for rule in built_in()]
        return cls((*(rule for rule in built if rule.effect != "off"), *rules), otherwise)


def _built_in_effect(name: str) -> str:
    return next(rule.effect for rule in built_in() if rule.name == name)


def _strictness(effect: str) -> int:
    return ("off", *EFFECTS).index(effect)


def decide(call: Call, rules: Rules, places: Places) -> Decision:
    """Return the strictest effect that any rule has for any part of a call."""
    found = [_decide_action(call.tools, action, rules, places) for action in call.actions]
    # A call is allowed by rules where all of its parts are.
    order = {"deny": 3, "ask": 2, "none": 1, "allow": 0}
    return max(found, key=lambda decision: order[decision.effect])


def _decide_action(tools: tuple[str, ...], action: Action, rules: Rules, places: Places) -> Decision:
    paths = {each: located(each, action.folders) for each in {*action.reads, *action.writes}}
    asked: Decision | None = None
    for rule in rules.rules:
        match = _match(rule, tools, action, paths, places) if rule.effect != "allow" else Match.NO
        if match is Match.YES and rule.effect == "deny":
            return Decision("deny", rule)
        # What may be meant is asked about.
        if match is not Match.NO and (asked is None or (asked.is_guess and match is Match.YES)):
            asked = Decision("ask", rule, is_guess=match is Match.MAYBE)
    if asked is not None:
        return asked
    allowing = (rule for rule in rules.rules if rule.effect == "allow")
    allowed = next((rule for rule in allowing if _is_allowed(rule, tools, action, paths, places)), None)
    if allowed is not None:
        return Decision("allow", allowed)
    return Decision(rules.otherwise if rules.otherwise != "allow" else "none")


# --- one rule and one part of a call ---


def _match(rule: Rule, tools: tuple[str, ...], action: Action, paths: Mapping[str, list[str]], places: Places) -> Match:
    """Say whether a deny or ask means a part of a call: as much as the least of its conditions."""
    if rule.tools and not any(overlaps(tool.casefold(), each.casefold()) for tool in tools for each in rule.tools):
        return Match.NO
    if rule.codes and action.code not in rule.codes:
        return Match.NO
    if rule.hosts and not any(host_matches(host, each) for host in action.hosts for each in rule.hosts):
        return Match.NO
    found = Match.YES
    if rule.commands:
        found = max((command_matches(action.words, each) for each in rule.commands), default=Match.NO)
    if rule.paths and found is not Match.NO:
        found = min(found, _paths_match(rule, action, paths, places))
    return found


def _paths_match(rule: Rule, action: Action, paths: Mapping[str, list[str]], places: Places) -> Match:
    named = {"read": action.reads, "write": action.writes}.get(rule.access or "", [*action.reads, *action.writes])
    found = Match.NO
    for word in named:
        for path in paths[word]:
            if any(path_matches(path, each, places) for each in rule.paths) and not _is_excepted(rule, path, places):
                return Match.YES
            if rule.commands and is_unseen(path):
                found = Match.MAYBE
    return found


def _is_excepted(rule: Rule, path: str, places: Places) -> bool:
    if not rule.exceptions or not is_known(path):
        return False
    last = path.rpartition("/")[2]
    return any(path_matches(last if is_name(each) else path, each, places) for each in rule.exceptions)


def _is_allowed(  # noqa: PLR0911 - a condition each
    rule: Rule, tools: tuple[str, ...], action: Action, paths: Mapping[str, list[str]], places: Places
) -> bool:
    """Say whether an allow means all of a part of a call, and nothing of it is unseen."""
    texts = [*action.words, *action.reads, *action.writes]
    if action.code is not None or rule.codes or not all(map(is_known, texts)):
        return False
    if rule.tools and not any(overlaps(tool.casefold(), each.casefold()) for tool in tools for each in rule.tools):
        return False
    if rule.commands:
        if not any(_begins_with(action.words, each) for each in rule.commands):
            return False
    elif action.words and not rule.tools:
        return False
    if rule.hosts and not (
        action.hosts and all(any(host_matches(host, each) for each in rule.hosts) for host in action.hosts)
    ):
        return False
    named = {"read": action.reads, "write": action.writes}.get(rule.access or "", [*action.reads, *action.writes])
    if rule.paths:
        if rule.access == "read" and action.writes:
            return False
        every = [path for word in named for path in paths[word]]
        return bool(every) and all(
            any(path_matches(path, each, places) for each in rule.paths) and not _is_excepted(rule, path, places)
            for path in every
        )
    return True


def _begins_with(words: list[str], pattern: str) -> bool:
    wanted = pattern.split()
    return len(words) >= len(wanted) and all(overlaps(word, each) for word, each in zip(words, wanted, strict=False))


def command_matches(words: list[str], pattern: str) -> Match:
    """Say whether a command is one that a pattern means, in whatever order and form its options are written."""
    wanted = pattern.split()
    if not words or not overlaps(name_of(words[0]).casefold(), wanted[0].casefold()) or UNSEEN in name_of(words[0]):
        return Match.NO
    rest = words[1:]
    if name_of(words[0]) == "git":
        while len(rest) > 1 and rest[0] in _GIT_VALUED:
            rest = rest[2:]
    found = Match.YES
    for each in wanted[1:]:
        if each.startswith("-") and len(each) > 1:
            found = min(found, _option_matches(rest, each))
    return min(found, _arguments_match(rest, [each for each in wanted[1:] if not each.startswith("-")]))


def _option_matches(words: list[str], option: str) -> Match:
    for word in words:
        if word == option or word.startswith(f"{option}="):
            return Match.YES
        # One that nothing is known of may be any, and none.
        if not is_known(word) and not is_unseen(word) and overlaps(word, option):
            return Match.YES
        if option.startswith("--"):
            name = word.partition("=")[0]
            if len(name) > 3 and name.startswith("--") and option.startswith(name):  # noqa: PLR2004 - `--r` says too little
                return Match.YES
        elif word.startswith("-") and not word.startswith("--") and len(option) == 2 and option[1] in word[1:]:  # noqa: PLR2004
            return Match.YES
    if len(option) > 2 and not option.startswith("--"):  # noqa: PLR2004 - `-rf` is `-r -f`
        clusters = {char for word in words if re.fullmatch(r"-\w{1,8}", word) for char in word[1:]}
        if len(option) <= 4 and set(option[1:]) <= clusters:  # noqa: PLR2004 - longer ones are words, such as `-delete`
            return Match.YES
    return Match.MAYBE if any(word.startswith(UNSEEN) for word in words) else Match.NO


def _arguments_match(words: list[str], wanted: list[str]) -> Match:
    """Say whether the arguments begin with these, where each option may have a value of its own behind it."""
    # Places in `wanted` that are reached; a word after an option may be its value.
    reached, may_be_value, is_unseen_since = {0}, False, False
    for word in words:
        if len(wanted) in reached:
            return Match.YES
        if word.startswith("-") and len(word) > 1:
            may_be_value = "=" not in word
            continue
        if word.startswith(UNSEEN):
            is_unseen_since = True
        following = {
            at + 1 for at in reached if at < len(wanted) and overlaps(word, wanted[at]) and not is_unseen(word)
        }
        reached = following | (reached if may_be_value or word.startswith(UNSEEN) else set())
        may_be_value = False
        if not reached:
            return Match.NO
    if len(wanted) in reached:
        return Match.YES
    return Match.MAYBE if is_unseen_since else Match.NO


# --- calls ---


def call_of(
    tool_name: str, common_name: str | None, arguments: Mapping[str, Any], places: Places, folders: tuple[str, ...] = ()
) -> Call:
    """Return what a tool call would do; `folders` are those that its shell may be in."""
    common = common_name or ("bash" if tool_name.casefold() in SHELL_TOOLS else None)
    tools = (tool_name, common) if common is not None and common != tool_name else (tool_name,)
    start = folders or (places.project or UNSEEN,)
    shell = Shell(_worked_in(arguments, start), {"HOME": (places.home,), "IFS": (" \t\n",)})
    begun = shell.folders
    actions: list[Action] = []
    # What is written or searched for may name any host.
    has_hosts = common is None or common == "web"
    hosts = [host for text in _texts(arguments) for host in URL.findall(text)] if has_hosts else []
    is_no_shell = (common or tool_name).casefold() in _NO_SHELLS
    for name, value in () if is_no_shell else arguments.items():
        if name in _COMMAND_ARGUMENTS or (common == "bash" and name == "code"):
            actions += _commands(tool_name, common, value, shell)
            actions += _with_words(value, arguments, shell)
    if common == "bash" and not actions:
        # A shell that is given no text that is known here, or one under a name that is not.
        actions.append(Action(code="unparsed", folders=start))
    reads, writes = _files(common, arguments, places)
    if not actions or reads or writes or hosts:
        actions.append(Action(reads=reads, writes=writes, hosts=hosts, folders=(places.project or UNSEEN,)))
    if begun != start:
        shell.folders = start  # one call's own folder is none that the next one begins in
    return Call(tools, tuple(actions), shell)


def _worked_in(arguments: Mapping[str, Any], start: tuple[str, ...]) -> tuple[str, ...]:
    """Return where a shell begins: also in a folder that the call names, which its agent need not go by."""
    named = [value for name, value in arguments.items() if _FOLDER_ARGUMENT.fullmatch(name) and isinstance(value, str)]
    found = [value if value.startswith("/") else f"{folder}/{value}" for value in named if value for folder in start]
    return tuple(dict.fromkeys((*found, *start)))[: MAX_FOLDERS if found else None]


def _with_words(command: Any, arguments: Mapping[str, Any], shell: Shell) -> list[Action]:
    """Return what a command comes to with the words that a tool takes apart from it."""
    found: list[Action] = []
    for name in _WORDS_ARGUMENT if isinstance(command, str) else ():
        words = arguments.get(name)
        if isinstance(words, (list, tuple)) and words and all(isinstance(each, str) for each in words):
            found += actions_of(shlex.join([command, *words]), shell)
    return found


def _commands(tool_name: str, common: str | None, value: Any, shell: Shell) -> list[Action]:
    if isinstance(value, str):
        if not value.strip():
            return [Action(folders=shell.folders)]
        if "powershell" in tool_name.casefold():  # another language
            return [Action(code="unparsed", folders=shell.folders)]
        if "*** Begin Patch" in value and not value.lstrip().startswith("apply_patch"):
            return []  # a patch, whose files are found by their lines
        return actions_of(value, shell) or [Action(folders=shell.folders)]
    if isinstance(value, (list, tuple)) and all(isinstance(each, str) for each in value):
        return actions_of(shlex.join(value), shell)
    return [Action(code="unparsed", folders=shell.folders)] if common == "bash" else []


def _files(common: str | None, arguments: Mapping[str, Any], places: Places) -> tuple[list[str], list[str]]:
    """Return the files that a tool reads and writes by what its arguments are called."""
    named: list[str] = []
    for name, value in arguments.items():
        folded = re.sub(r"(?<=[a-z])(?=[A-Z])", "_", name).casefold()
        if _PATH_ARGUMENT.match(folded):
            values = value if isinstance(value, (list, tuple)) else [value]
            is_pattern = folded.endswith(("glob", "include"))
            named += [
                _as_word(each, places, is_pattern=is_pattern) for each in values if isinstance(each, str) and each
            ]
    patched = [each.strip() for text in _texts(arguments) if "*** " in text for each in _PATCHED.findall(text)]
    if common in {"read", "search"}:
        return named, patched
    return ([] if common == "write" else named), [*named, *patched]


def _as_word(path: str, places: Places, *, is_pattern: bool) -> str:
    """Return a path as a tool takes it, which may expand `~` and give a URL of a file."""
    text = re.sub("[\x00-\x08]", "", path).removeprefix("file://")
    if text == "~" or text.startswith("~/"):
        text = f"{places.home}{text[1:]}"
    return text.replace("*", MANY).replace("?", ONE) if is_pattern else text


def _texts(value: Any, budget: list[int] | None = None) -> Iterable[str]:
    budget = [MAX_TEXTS] if budget is None else budget
    budget[0] -= 1
    if budget[0] < 0:
        return
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for each in value.values():
            yield from _texts(each, budget)
    elif isinstance(value, (list, tuple)):
        for each in value:
            yield from _texts(each, budget)
