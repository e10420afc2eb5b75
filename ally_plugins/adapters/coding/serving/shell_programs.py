"""What is known of the programs in a shell's line: which only read, and which run what else they are given."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from itertools import pairwise
from pathlib import PurePosixPath
from typing import Final

__all__ = [
    "COPIES",
    "INLINE",
    "INTERPRETERS",
    "LAUNCHERS",
    "NAMING",
    "RUNNING",
    "SHELLS",
    "TREES",
    "WRAPPERS",
    "WRITING",
    "arguments_of_ours",
    "folders_of",
    "from_program",
    "is_run_by_others",
    "only_reads",
    "only_tells",
    "paths_in",
    "split_by_env",
    "takes_away",
    "unpacks",
    "unwrapped",
]

_READERS: Final = frozenset(
    """cat tac ls ll dir head tail less more bat grep egrep fgrep rg ag ack stat file wc diff cmp comm jq yq tree du df
    sha256sum sha1sum md5sum cksum readlink realpath dirname basename test [ [[ echo printf strings xxd hexdump od nl
    cut sort uniq column fold tr rev true false type which export set unset pwd sleep for case esac id getfacl
    lsattr base64 fd fdfind""".split()  # noqa: SIM905 - a table of words
)
"""Programs that write nothing to what they are given to read."""

_TELLERS: Final = frozenset(
    """git gh glab hub hg svn jj curl wget http notify-send mail sendmail tee touch mkdir cp mv ln rm rmdir cd pushd tar
    zip pip pip3 sed diff patch""".split()  # noqa: SIM905
)
"""Programs that are given texts about anything, and run none of them; but for what `only_tells` knows of git."""

NAMING: Final = frozenset("echo printf ls find fd grep egrep fgrep rg realpath readlink git".split())  # noqa: SIM905
"""Programs that print names of files, which stand among their own words or lie below those."""

SHELLS: Final = frozenset(
    {"sh", "bash", "dash", "zsh", "ksh", "mksh", "ash", "fish", "pwsh", "busybox", "eval", "source", "."}
)

WRAPPERS: Final = frozenset(
    """sudo doas env nohup nice ionice chrt setsid time timeout stdbuf exec command builtin xargs watch unbuffer
    caffeinate uv uvx npx bunx pipx poetry hatch pdm rye""".split()  # noqa: SIM905
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
    r"write|connect\(|unlink|remove|delete|rename|replace|rmtree|truncate|chmod|chown|dump\(|copy|move|shutil|subprocess|system|"
    r"popen|exec|spawn|['\"][wax]b?\+?['\"]|['\"]r\+b?['\"]|>|\brm",
    re.IGNORECASE,
)
"""In the code of an interpreter: it may write."""

RUNNING: Final = re.compile(r"system|exec|spawn|popen|subprocess|\brun|`|\bmain\(|__main__|invoke|qx", re.IGNORECASE)
"""In such code: it may run something."""

INLINE: Final = re.compile(r"-[a-zA-Z]*c[a-zA-Z]*|-Command|--command", re.ASCII)
"""The option of a shell that a line follows."""

TREES: Final = frozenset(
    {"rm", "mv", "rmdir", "shred", "chmod", "chown", "chattr", "rsync", "find", "fd", "fdfind", "unlink", "ln", "mount",
     "umount", "bindfs"}
)  # fmt: skip
"""Programs that reach what lies in a folder that they are given."""

COPIES: Final = frozenset({"cp", "install", "scp", "rsync"})

_GIT_READS: Final = frozenset(
    """add diff log show status blame commit grep ls-files ls-tree check-ignore rev-parse cat-file push
    fetch""".split()  # noqa: SIM905
)
_WRAPPER_WORDS: Final = frozenset({"run", "tool", "--"})
_PROGRAM: Final = "ally-plugins"
_MODULE: Final = "ally_plugins"
_MODULE_FILE: Final = re.compile(rf"(?:^|/){_MODULE}/?(?:__main__\.py)?$")
_SIGNS: Final = str.maketrans("", "", "*?[]")
_FEWEST: Final = 4  # letters of its name beside the signs of a pattern: with fewer it is one of `case`
_FOUND_BY: Final = frozenset({"-delete", "-exec", "-execdir", "-ok", "-okdir"})
_SET_BY_GIT: Final = frozenset({"-C", "-c", "--git-dir", "--work-tree"})
_RUN_BY_GIT: Final = frozenset({"config", "rebase", "bisect", "submodule", "filter-branch", "difftool", "mergetool"})
"""What git is told to run by these stands among their words."""

_FOLDERS: Final = re.compile(
    r"(-C|-d|-D|-P|--directory|--directory-prefix|--output-dir|--work-tree|--chdir|--prefix)(?:=(.*))?|-[CP](.+)",
    re.DOTALL,
)
"""Options that say in which folder a program writes."""

_WRITING_OPTIONS: Final = {
    "find": r"-(?:delete|exec|execdir|ok|okdir)$|-fprint",
    "fd": r"-[a-zA-Z]*[xX]|--exec",
    "fdfind": r"-[a-zA-Z]*[xX]|--exec",
    "sed": r"-[a-zA-Z]*i|--in-place",
    "gsed": r"-[a-zA-Z]*i|--in-place",
    "sort": r"-[a-zA-Z]*o|--output",
    "tree": r"-[a-zA-Z]*o",
    "less": r"-[a-zA-Z]*[oO]|--log-file",
    "yq": r"-[a-zA-Z]*i|--inplace",
}
"""Options with which programs write that only read without them."""

_RUNNING_OPTIONS: Final = re.compile(r"--(?:checkpoint-action|to-command|use-compress|info-script|new-volume)|-[IF]")
"""With which tar runs what it is given."""

_RUN_BY_SED: Final = re.compile(
    r"(?:^|[;{}\n\d$/,!])\s*e(?:\s|$)|s(\W).*\1.*\1[gpIiMm0-9]*e[gpIiMm0-9]*(?:[;}\s]|w|$)", re.DOTALL
)
"""In a text for sed: the command `e`, and the sign of `s` that runs what came of it."""

_UNPACKERS: Final = frozenset({"unzip", "7z", "7za", "cpio", "patch", "bsdtar"})

_RUN_VARIABLES: Final = re.compile(r"\w*(?:PAGER|EDITOR|VISUAL|COMMAND|ASKPASS|BROWSER|_SSH|_DIFF|_ENV)|ENV|PS[0-4]")


def only_reads(program: str, rest: list[str]) -> bool:
    """Say whether a program with these arguments writes nothing to the paths among them."""
    if (option := _WRITING_OPTIONS.get(program)) is not None:
        return not any(map(re.compile(option).match, rest))
    match program:
        case "tar":
            return not _extracts(rest) and not takes_away(program, rest)
        case "uniq" | "xxd":  # the second is written
            return len([word for word in rest if not word.startswith("-")]) < 2  # noqa: PLR2004
        case "git":
            words = (word for before, word in pairwise(["", *rest]) if before not in _SET_BY_GIT)
            return next((word in _GIT_READS for word in words if not word.startswith("-")), True)
        case _:
            return program in _READERS


def only_tells(program: str, rest: list[str]) -> bool:
    """Say whether a program runs nothing of what it is given, whatever that is about."""
    if program == "tar":
        return not any(map(_RUNNING_OPTIONS.match, rest))
    if program in {"sed", "gsed"}:
        return not any(map(_RUN_BY_SED.search, rest))
    if program != "git":
        return program in _TELLERS or (program in _READERS and program not in {"export", "set"})
    words = [word for before, word in pairwise(["", *rest]) if before not in _SET_BY_GIT and not word.startswith("-")]
    return "-c" not in rest[: rest.index(words[0]) if words else None] and not _RUN_BY_GIT & {*words[:1]}


def is_run_by_others(variable: str) -> bool:
    """Say whether other programs take a variable's value for a command."""
    return _RUN_VARIABLES.fullmatch(variable) is not None


def folders_of(words: list[str]) -> list[str]:
    """Return the folders that options name, in which a program is to work."""
    found = []
    for word, after in pairwise([*words, ""]):
        if (option := _FOLDERS.fullmatch(word)) is not None:
            found.append(option[2] or option[3] or after)
    return found


def unpacks(program: str, rest: list[str]) -> bool:
    """Say whether what a program writes in its folder is named by what it reads."""
    if program == "git":
        return not only_reads(program, rest)
    return program in _UNPACKERS or (program == "tar" and _extracts(rest))


def takes_away(program: str, rest: list[str]) -> bool:
    """Say whether a program that copies or packs removes what it has read."""
    match program:
        case "tar" | "rsync":
            return any(word.startswith(("--remove-", "--delete")) for word in rest)
        case "zip":
            return any(re.fullmatch(r"-[a-zA-Z]*m[a-zA-Z]*|--move", word) for word in rest)
        case "7z" | "7za" | "7zz":
            return "-sdel" in rest
        case _:
            return program in TREES


def _extracts(rest: list[str]) -> bool:
    return any(re.fullmatch(r"-[a-zA-Z]*x[a-zA-Z]*|--extract|--get", word) for word in rest) or (
        "x" in rest[0] if rest and not rest[0].startswith("-") else False
    )


def unwrapped(words: list[str]) -> list[str]:
    """Return the words without the first, and without options, settings and numbers that belong to it."""
    rest = words[1:]
    while rest and (
        rest[0].startswith("-") or "=" in rest[0] or rest[0] in _WRAPPER_WORDS or rest[0].rstrip("smhd.").isdigit()
    ):
        del rest[0]
    return rest


def split_by_env(words: list[str]) -> list[str]:
    """Return the words with the value of `env -S` taken apart; others as they are."""
    if not words or PurePosixPath(words[0]).name != "env":
        return words
    for number, word in enumerate(words[1:], 1):
        if (found := re.fullmatch(r"-[a-zA-Z]*S(.*)|--split-string(?:=(.*))?", word, re.DOTALL)) is not None:
            value, after = found[1] or found[2], words[number + 1 :]
            return [*words[:number], *(value.split() if value else [*"".join(after[:1]).split(), *after[1:]])]
        if not word.startswith("-") and "=" not in word:
            break
    return words


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
    name = PurePosixPath(words[0]).name
    if _is_ours(name):
        return words[1:]
    if INTERPRETERS.fullmatch(name):
        # The program's file given to what runs it.
        at = next((number for number, word in enumerate(words[1:], 1) if not word.startswith("-")), 0)
        if at and (_is_ours(PurePosixPath(words[at]).name) or _MODULE_FILE.search(words[at])):
            return words[at + 1 :]
    for number, (option, module) in enumerate(pairwise(words)):
        if option.startswith("-") and option.endswith("m") and module == _MODULE:
            return words[number + 2 :]
    joined = next((number for number, word in enumerate(words) if word == f"-m{_MODULE}"), None)
    return words[joined + 1 :] if joined is not None else None


def _is_ours(name: str) -> bool:
    # Without regard to case, as on a disk of macOS.
    return fnmatchcase(_PROGRAM, name.lower()) and len(name.translate(_SIGNS)) >= _FEWEST


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
