"""What is known of the programs in a shell's line: which only read, and which run what else they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Final

__all__ = [
    "COPIES",
    "INLINE",
    "INTERPRETERS",
    "LAUNCHERS",
    "SHELLS",
    "TREES",
    "WRAPPERS",
    "WRITING",
    "arguments_of_ours",
    "from_program",
    "only_reads",
    "paths_in",
    "unwrapped",
]

_READERS: Final = frozenset(
    """cat tac ls ll dir head tail less more bat grep egrep fgrep rg ag ack stat file wc diff cmp comm jq yq tree du df
    sha256sum sha1sum md5sum cksum readlink realpath dirname basename test [ [[ echo printf strings xxd hexdump od nl
    cut sort uniq column fold tr rev source . true false type which export set unset pwd sleep for case esac id getfacl
    lsattr base64""".split()  # noqa: SIM905 - a table of words
)
"""Programs that write nothing to what they are given to read."""

SHELLS: Final = frozenset({"sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "eval"})

WRAPPERS: Final = frozenset(
    """sudo doas env nohup nice ionice chrt setsid time timeout stdbuf exec command builtin xargs watch unbuffer
    caffeinate uv uvx pipx poetry hatch pdm rye""".split()  # noqa: SIM905
)
"""Programs that run the one that follows, in their own place."""

LAUNCHERS: Final = frozenset(
    """tmux screen systemd-run at batch crontab script expect dtach abduco zellij parallel find ssh su docker podman
    nsenter unshare flatpak-spawn osascript xterm konsole gnome-terminal kitty wezterm alacritty runuser chroot
    start-stop-daemon""".split()  # noqa: SIM905
)
"""Programs that run what stands somewhere among their words, some of them away from the agent's tree."""

INTERPRETERS: Final = re.compile(r"(?:python|pypy|node|bun|deno|perl|ruby|php|g?awk|mawk|lua|Rscript|tclsh)[0-9.]*")

WRITING: Final = re.compile(
    r"write|unlink|remove|rename|replace|rmtree|truncate|chmod|chown|dump\(|copy|move|shutil|subprocess|system|popen|"
    r"exec|spawn|['\"][wax]b?\+?['\"]|['\"]r\+b?['\"]|>|\brm\b",
    re.IGNORECASE,
)
"""In the code of an interpreter: it may write."""

INLINE: Final = re.compile(r"-[a-zA-Z]*c")
"""The option of a shell that a line follows."""

TREES: Final = frozenset({"rm", "mv", "rmdir", "shred", "chmod", "chown", "chattr", "rsync", "find", "unlink"})
"""Programs that reach what lies in a folder that they are given."""

COPIES: Final = frozenset({"cp", "install", "scp", "rsync"})

_GIT_READS: Final = frozenset(
    """add diff log show status blame commit grep ls-files ls-tree check-ignore rev-parse cat-file push
    fetch""".split()  # noqa: SIM905
)
_WRAPPER_WORDS: Final = frozenset({"run", "tool", "--"})
_PROGRAM: Final = "ally-plugins"
_MODULE: Final = "ally_plugins"
_FOUND_BY: Final = frozenset({"-delete", "-exec", "-execdir", "-ok", "-okdir"})
_SET_BY_GIT: Final = frozenset({"-C", "-c", "--git-dir", "--work-tree"})


def only_reads(program: str, rest: list[str]) -> bool:
    """Say whether a program with these arguments writes nothing to the paths among them."""
    match program:
        case "find":
            return not any(word in _FOUND_BY or word.startswith("-fprint") for word in rest)
        case "sed" | "gsed":
            return not any(re.match(r"-[a-zA-Z]*i|--in-place", word) for word in rest)
        case "tar":
            return bool(rest) and "x" not in rest[0].lstrip("-") and "--extract" not in rest
        case "git":
            words = (word for before, word in pairwise(["", *rest]) if before not in _SET_BY_GIT)
            return next((word in _GIT_READS for word in words if not word.startswith("-")), True)
        case _:
            return program in _READERS


def unwrapped(words: list[str]) -> list[str]:
    """Return the words without the first, and without options, settings and numbers that belong to it."""
    rest = words[1:]
    while rest and (
        rest[0].startswith("-") or "=" in rest[0] or rest[0] in _WRAPPER_WORDS or rest[0].rstrip("smhd.").isdigit()
    ):
        del rest[0]
    return rest


def from_program(launcher: str, words: list[str]) -> list[str]:
    """Return the words from the first that may be a program whose arguments count, for what launches it."""
    if launcher == "find":  # whose other words are folders and patterns
        words = next((words[number + 1 :] for number, word in enumerate(words) if word in _FOUND_BY), [])
    for number, word in enumerate(words):
        name = PurePosixPath(word).name
        if name in {_PROGRAM, *SHELLS, *TREES, "tee", "sed", "truncate"} or INTERPRETERS.fullmatch(name):
            return words[number:]
    return []


def arguments_of_ours(words: list[str]) -> list[str] | None:
    """Return the arguments of our own program, None for another one."""
    if PurePosixPath(words[0]).name == _PROGRAM:
        return words[1:]
    for number, (option, module) in enumerate(pairwise(words)):
        if option.startswith("-") and option.endswith("m") and module == _MODULE:
            return words[number + 2 :]
    joined = next((number for number, word in enumerate(words) if word == f"-m{_MODULE}"), None)
    return words[joined + 1 :] if joined is not None else None


def paths_in(word: str) -> Iterator[str]:
    """Yield what may be a path in a word: itself, an option's value, parts that a colon separates."""
    if "\n" in word or "\t" in word:
        return
    yield word
    if word.startswith("-"):
        yield word[2:]
    name, equals, value = word.partition("=")
    if equals and name:
        yield value
    if ":" in word:
        yield from word.split(":")
