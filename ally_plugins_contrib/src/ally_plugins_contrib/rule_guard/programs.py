"""What a simple command comes to: the program behind `sudo`, `env`, `xargs` or `sh -c`, its files, and its hosts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Final

from .commands import Command, Shell, UnreadableError
from .script import RUNNING_VARIABLES, read_script
from .words import MANY, ONE, UNSEEN, is_known

__all__ = ["URL", "Action", "actions_of", "name_of"]

SHELLS: Final = frozenset({"sh", "bash", "zsh", "dash", "ksh", "mksh", "ash", "fish", "rbash", "busybox-sh"})
INTERPRETERS: Final = {
    "python": "c", "pypy": "c", "perl": "eE", "ruby": "e", "node": "ep", "nodejs": "ep", "deno": "", "bun": "ep",
    "php": "r", "lua": "e", "luajit": "e", "osascript": "e", "awk": "", "gawk": "", "mawk": "", "nawk": "",
    "pwsh": "cC",
}  # fmt: skip
"""Programs that run a text, and the letters of the options that it follows."""

_VALUED: Final = {
    "sudo": "ugpCDhrtTU", "doas": "uC", "env": "uCS", "nice": "n", "ionice": "cnp", "timeout": "sk", "stdbuf": "ioe",
    "xargs": "IEeLlnPsad", "exec": "a", "time": "fo", "watch": "nd", "setsid": "", "nohup": "",
    "command": "", "builtin": "",
    "busybox": "", "toybox": "", "chroot": "", "unshare": "", "caffeinate": "tw", "flock": "wE", "strace": "eopsu",
    "ltrace": "eopsu", "chrt": "", "taskset": "", "runuser": "ucgs", "parallel": "j", "torsocks": "", "proxychains": "",
    "firejail": "", "script": "",
}  # fmt: skip
"""Programs that run another one, and their short options with a value of its own."""

_LONG_VALUED: Final = frozenset({
    "--user", "--group", "--chdir", "--unset", "--signal", "--kill-after", "--max-args", "--max-procs", "--replace",
    "--delimiter", "--arg-file", "--interval", "--adjustment", "--class", "--classdata", "--prompt", "--host",
})  # fmt: skip
_RUNNERS: Final = {
    "uv": "run", "poetry": "run", "pipenv": "run", "pdm": "run", "rye": "run", "hatch": "run", "conda": "run",
    "bundle": "exec", "pnpm": "exec", "mise": "exec",
}  # fmt: skip
_SKIPS: Final = {"timeout": 1, "flock": 1, "chroot": 1, "taskset": 1, "chrt": 1}
"""Words of theirs before that program."""

_READERS: Final = frozenset({
    ".", "ag", "awk", "base64", "bat", "cat", "cmp", "column", "comm", "cut", "diff", "egrep", "fgrep", "fold",
    "gawk", "grep",
    "head", "hexdump", "jq", "less", "mawk", "md5sum", "more", "nl", "od", "rev", "rg", "sha1sum", "sha256sum",
    "sha512sum",
    "sort", "source", "strings", "tac", "tail", "uniq", "view", "wc", "xxd", "yq", "zgrep",
})  # fmt: skip
_WRITERS: Final = frozenset({
    "chgrp", "chmod", "chown", "mkdir", "mkfifo", "rm", "rmdir", "shred", "tee", "touch", "truncate", "unlink",
})  # fmt: skip
_NAMERS: Final = frozenset({
    ":", "[", "alias", "basename", "cd", "dirname", "du", "echo", "exa", "export", "eza", "false", "file", "find",
    "kill", "ls",
    "popd", "printf", "pushd", "pwd", "readlink", "realpath", "set", "sleep", "stat", "test", "tree", "true",
    "type", "unset",
    "which",
})  # fmt: skip
"""Programs that open no file that they are given the name of; where they write is told by redirections."""

_SEARCHERS: Final = frozenset({"grep", "egrep", "fgrep", "zgrep", "rg", "ag", "sed", "awk", "gawk", "mawk", "jq", "yq"})
"""Their first word that is no option is none of a file."""

_NETWORKERS: Final = frozenset({
    "curl", "dig", "ftp", "host", "http", "https", "nc", "ncat", "netcat", "nslookup", "ping", "rsync", "scp",
    "sftp", "socat",
    "ssh", "telnet", "wget",
})  # fmt: skip
_DOWNLOADERS: Final = frozenset({"curl", "wget", "http", "https", "fetch", "aria2c", "lynx", "nc", "ncat"})
_STDIN: Final = ("/dev/stdin", "/dev/fd/0", "/proc/self/fd/0")
_FILE_OPTIONS: Final = frozenset(
    {"-o", "-O", "-T", "-K", "-i", "-F", "-E", "-c", "-b", "-w", "-H", "-d", "-X", "-A", "-u", "-e"}
)

MAX_STARTS: Final = 8
"""Words of a program's text, from the first, at which a command may begin."""

_SPLIT: Final = re.compile(r"-[0iv]*S|--split-string=?")
_RUN_BY_GIT: Final = re.compile(
    r"core\.(?:pager|editor|sshcommand|fsmonitor|askpass|gitproxy|alternaterefscommand)|sequence\.editor|pager\.\w+"
    r"|(?:diff|merge|filter|difftool|mergetool|browser|man|gpg|credential)\.(?:.*\.)?"
    r"(?:external|command|textconv|driver|clean|smudge|process|cmd|path|program|helper)"
    r"|remote\..*\.(?:upload|receive)pack",
    re.IGNORECASE,
)
"""Settings of git whose value is a command."""

_WHOLE: Final = re.compile(r"(.+)", re.DOTALL)
_RECIPE: Final = re.compile(r"(?:^|[;\n])[\t @+-]*([^;\n]+)")
_SED_RUNS: Final = re.compile(r"(?:^|[;\n{}\d$/!,])\s*e\s+([^\n]+)|s([^\w\s])(?:(?!\2).)*\2((?:(?!\2).)+)\2[\w]*e")
_EX_RUNS: Final = re.compile(r"^:?\s*(?:silent\s*)?!\s*(.+)", re.DOTALL)
_TAKERS: Final = {
    "make": (("--eval",), _RECIPE), "gmake": (("--eval",), _RECIPE),
    "sed": (("-e", "--expression"), _SED_RUNS), "gsed": (("-e", "--expression"), _SED_RUNS),
    "vim": (("-c", "--cmd"), _EX_RUNS), "vi": (("-c", "--cmd"), _EX_RUNS), "nvim": (("-c", "--cmd"), _EX_RUNS),
    "ex": (("-c", "--cmd"), _EX_RUNS), "view": (("-c", "--cmd"), _EX_RUNS),
    "tar": (("-I", "-F", "--use-compress-program", "--to-command", "--info-script", "--rmt-command"), _WHOLE),
    "compgen": (("-C",), _WHOLE), "complete": (("-C",), _WHOLE), "mapfile": (("-C",), _WHOLE),
    "readarray": (("-C",), _WHOLE), "jobs": ((), _WHOLE), "hash": ((), _WHOLE),
}  # fmt: skip
"""Programs that run a text which is given to one of these options, and what of it they run."""

_RUNNING_OPTION: Final = re.compile(
    r"(?:-o)?(?:Proxy|Local|Remote)Command[= ]|--(?:checkpoint-action=exec|to-command|use-compress-program|rsh)=",
    re.IGNORECASE,
)
URL: Final = re.compile(
    r"\b[a-z][a-z0-9+.-]{1,20}://(?:[^\s/@'\"]{0,256}@)?(\[[0-9a-f:.]+\]|[^\s/:?#'\"<>|\\)]+)", re.IGNORECASE
)
_DEVICE: Final = re.compile(r"/dev/(?:tcp|udp)/([^/\s]+)/")
_LITERAL: Final = re.compile(
    r"'((?:[^'\\\n]|\\.)*)'|\"((?:[^\"\\\n]|\\.)*)\""
    r"|\bq[qwx]?\s*[({\[<|/!]([^)}\]>|/!\n]*)[)}\]>|/!]"  # Perl's
)
_STARTS: Final = re.compile(
    r"\bsystem\s*\(?|subprocess|popen|\bexec[lv]?p?e?\b|\bspawn|posix_spawn|child_process|`|%x|\bsh\s*\(|execSync|\|\s*getline"
    r"|do shell script"
)
_REMOVES: Final = re.compile(r"rmtree|rmSync|rmdirSync|rm_rf|rm_r\b|remove_tree|rimraf|remove_entry|\.rm\(|removedirs")


@dataclass
class Action:
    """One thing that a call would do, as far as it can be seen; `words` are empty where it is no command.

    Paths are as they were written, to be taken from each of `folders`. `code` says of a program or a text for a shell
    why it cannot be seen: `unparsed`, `unseen`, or `downloaded`.
    """

    words: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    writes: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    folders: tuple[str, ...] = ()
    code: str | None = None


def actions_of(text: str, shell: Shell) -> list[Action]:
    """Return all that a command line may do. Raises nothing: what cannot be read is an action that says so."""
    try:
        found: list[Action] = []
        for command in read_script(text, shell):
            found += _of_command(command)
    except UnreadableError:
        # Its hosts are looked for all the same, so that a deny of one is a deny.
        return [Action(code="unparsed", hosts=URL.findall(text), folders=shell.folders)]
    return found


def name_of(word: str) -> str:
    """Return a program's name without its folder."""
    return word.rpartition("/")[2]


def _of_command(command: Command) -> Iterator[Action]:
    yield from _of_words(command, command.words)


def _of_words(command: Command, words: list[str]) -> Iterator[Action]:  # noqa: C901, PLR0912 - a branch a kind of program
    for _ in range(24):  # wrappers around each other
        inner = _unwrapped(words, command)
        if inner is None:
            break
        yield _action(command, words, is_outer=True)
        yield from _of_options(command, words[: len(words) - len(inner)])
        words = inner
    if not words:
        yield _action(command, words)
        return
    program = name_of(words[0])
    if UNSEEN in program or MANY in program or ONE in program or not program:
        yield replace(_action(command, words), code=_how_unseen(command, words[:1]))
        return
    yield _action(command, words)
    if " " in words[0]:
        yield from _of_text(command, words[0])  # a text in the place of a program's name: what ran it takes both
    elif program == "find":
        yield from _of_find(command, words)
    elif program == "trap" and len(words) > 2:  # noqa: PLR2004 - its text and a signal
        yield from _of_text(command, words[2 if words[1] == "--" else 1])
    elif program in {"at", "batch"} or (program in {"source", "."} and words[1:2] and words[1] in _STDIN):
        yield from _of_text(command, command.given or UNSEEN)
    elif program in {"eval", "source", "."}:
        if any(not is_known(each) for each in words[1:]) and (program == "eval" or command.inner):
            yield Action(code=_how_unseen(command, words[1:]), folders=command.folders)
    elif program == "git":
        yield from _of_git(command, words)
    elif program in _TAKERS:
        yield from _of_takers(command, program, words)
    elif (letters := _interpreter(program)) is not None:
        yield from _of_interpreter(command, words, letters)
    yield from _of_shells(command, words)
    yield from _of_options(command, words)


def _of_options(command: Command, words: list[str]) -> Iterator[Action]:
    """Look into options and variables whose value is a command: `ssh -o ProxyCommand=...`, `env PAGER=... man`."""
    for each in words[1:]:
        if (found := _RUNNING_OPTION.match(each)) is not None:
            yield from _of_text(command, each[found.end() :])
        name, is_set, value = each.partition("=")
        if is_set and name in RUNNING_VARIABLES:
            yield from _of_text(command, value)


# --- programs that run another one ---


def _unwrapped(words: list[str], command: Command) -> list[str] | None:
    """Return the command that a program like `sudo` runs, None for any other program."""
    program = name_of(words[0]) if words else ""
    if program in _RUNNERS and words[1:2] == [_RUNNERS[program]]:
        rest = words[2:]
        while rest and rest[0].startswith("-"):
            rest = rest[1:]
        return rest or None
    if program not in _VALUED:
        return None
    if program == "command" and words[1:2] in (["-v"], ["-V"]):
        return None
    rest = _after_options(program, words[1:])
    if program in {"parallel", "watch", "script"} and len(rest) == 1 and " " in rest[0]:
        rest = ["sh", "-c", rest[0]]
    return _with_arguments(words, rest or ["echo"], command) if program == "xargs" else rest or None


def _after_options(program: str, rest: list[str]) -> list[str]:
    """Return the words of a program that runs another one from that one's name on."""
    skip = _SKIPS.get(program, 0)
    while rest:
        word = rest[0]
        if program == "env" and (split := _SPLIT.match(word)) is not None:
            return " ".join([word[split.end() :], *rest[1:]]).split()
        if program == "env" and word == "-":
            rest = rest[1:]
            continue
        if word == "--":
            return rest[1:]
        if word.startswith("-") and len(word) > 1:
            is_valued = word[-1] in _VALUED[program] and not word.startswith("--")
            rest = rest[2 if is_valued or word in _LONG_VALUED else 1 :]
        elif skip or (program in {"env", "sudo", "doas"} and re.match(r"[A-Za-z_]\w*=", word)):
            skip = max(0, skip - 1)
            rest = rest[1:]
        else:
            break
    return rest


def _with_arguments(words: list[str], rest: list[str], command: Command) -> list[str]:
    """Return the command of `xargs` with the words that it reads, where these are known, or where `find` found them."""
    given, last = command.given, command.before[-1].words if command.before else []
    if given is not None and UNSEEN not in given:
        values = given.split()
    elif last and name_of(last[0]) == "find":
        # All that is in a folder, where no name is looked for.
        values = [each if "/" in each else f"{each}/{MANY}" for each in _found_by(last)]
    else:
        values = [UNSEEN]
    for at, each in enumerate(words):
        if each.startswith(("-I", "--replace")) or each == "-i":
            sign = each[2:] if each.startswith("-I") and len(each) > 2 else each.partition("=")[2]  # noqa: PLR2004
            sign = sign or (words[at + 1] if each == "-I" and at + 1 < len(words) else "{}")
            return [part.replace(sign, " ".join(values)) for part in rest]
    return [*rest, *values]


def _of_find(command: Command, words: list[str]) -> Iterator[Action]:
    at = 1
    while at < len(words):
        if words[at] in {"-exec", "-execdir", "-ok", "-okdir"}:
            end = next((i for i in range(at + 1, len(words)) if words[i] in {";", "+"}), len(words))
            inner = words[at + 1 : end]
            for found in _found_by(words):
                yield from _of_words(command, [each.replace("{}", found) for each in inner])
            at = end
        at += 1


def _found_by(words: list[str]) -> list[str]:
    """Return what `find` finds: its folders, each with the name that it looks for in it."""
    names = _after(words, {"-name", "-iname"})
    name = names[0].replace("*", MANY).replace("?", ONE) if names else ""
    return [f"{start}/{name}" if name else start for start in _until_option(words[1:])] or [name or "."]


def _until_option(words: list[str]) -> Iterator[str]:
    for each in words:
        if each.startswith("-") or each in {"!", "(", ")"}:
            return
        yield each


def _of_git(command: Command, words: list[str]) -> Iterator[Action]:
    """Look into what it is told to run, on the spot or from now on."""
    settings = [each.partition("=")[::2] for each in _after(words, {"-c"})]
    if "config" in words:
        settings += pairwise(words)
    for name, value in settings:
        if _RUN_BY_GIT.match(name) is not None:
            yield from _of_text(command, value.removeprefix("!"))
        elif name.lower().startswith("alias."):
            yield from _of_text(command, value[1:] if value.startswith("!") else f"git {value}")
    for text in _after(words, {"-x", "--exec", "foreach"}) if {"rebase", "submodule"} & set(words) else ():
        yield from _of_text(command, text)
    if words[-1:] != ["run"] and "bisect" in words and "run" in words:
        yield from _of_words(command, words[words.index("run") + 1 :])


def _of_takers(command: Command, program: str, words: list[str]) -> Iterator[Action]:
    """Look into a text that one option of a program has it run."""
    options, form = _TAKERS[program]
    texts = _after(words, set(options)) + [each for option in options for each in _values(words, option)]
    if program in {"make", "gmake"} and any(each in {"-", *_STDIN} or each.endswith("f-") for each in words[1:]):
        texts.append(command.given or "")
    for text in texts or (words[1:] if program in {"sed", "gsed"} else ()):
        for found in form.finditer(text):
            line = found[found.lastindex or 0]
            if line.strip():
                yield from (each for each in _of_text(command, line) if each.code != "unparsed")
    if program == "jobs" and "-x" in words[1:-1]:
        yield from _of_words(command, words[words.index("-x") + 1 :])
    if program == "hash" and "-p" in words:
        yield Action(code="unseen", folders=command.folders)


def _values(words: list[str], option: str) -> list[str]:
    return [each.removeprefix(f"{option}=") for each in words if option and each.startswith(f"{option}=")]


def _of_shells(command: Command, words: list[str]) -> Iterator[Action]:
    """Look into the text that any word names a shell for: `sh -c TEXT`, also behind `docker run` and the like."""
    for at, each in enumerate(words):
        program = name_of(each)
        if program in SHELLS:
            yield from _of_shell(command, words[at + 1 :], is_first=at == 0)
        elif at == 0 and program == "ssh":
            yield from _of_ssh(command, words)
        elif at == 0 and program in {"su", "runuser"} and (texts := _after(words, {"-c", "--command"})):
            for text in texts:
                yield from _of_text(command, text)
        elif (
            at == 0 and program in {"su", "runuser", "sudo", "doas", "chroot", "unshare"} and command.given is not None
        ):
            yield from _of_text(command, command.given)  # without a command they run a shell


def _of_ssh(command: Command, words: list[str]) -> Iterator[Action]:
    rest = words[1:]
    while rest and rest[0].startswith("-"):
        rest = rest[2 if rest[0][-1] in "bcDeFIiJLlmOopQRSWwE" and len(rest[0]) == 2 else 1 :]  # noqa: PLR2004 - `-p`
    if len(rest) > 1:
        yield from _of_text(command, " ".join(rest[1:]))
    if command.given is not None and (len(rest) == 1 or name_of(rest[-1].split(" ")[0]) in SHELLS):
        yield from _of_text(command, command.given)


def _of_shell(command: Command, rest: list[str], *, is_first: bool) -> Iterator[Action]:
    at = 0
    while at < len(rest) and rest[at].startswith(("-", "+")) and rest[at] != "--":
        if not rest[at].startswith("--") and "c" in rest[at]:
            following = rest[at + 1 :]
            while following and following[0].startswith(("-", "+")):
                del following[0]
            if following:
                yield from _of_text(command, following[0], following[1:])
            return
        if not rest[at].startswith("--") and "s" in rest[at]:
            rest = rest[: at + 1]  # what follows are arguments of what it reads
        at += 2 if rest[at] in {"-o", "-O", "+o", "+O", "--rcfile", "--init-file"} else 1
    script = [] if rest[at : at + 1] in ([each] for each in ("-", "--", *_STDIN)) else rest[at:]
    if not is_first:
        return
    if script and not is_known(script[0]) and command.inner:
        yield Action(code=_how_unseen(command, script[:1]), folders=command.folders)
    elif not script and (given := command.given) is not None:
        yield from _of_text(command, given)


def _of_text(command: Command, text: str, arguments: list[str] | None = None) -> Iterator[Action]:
    """Return what a text comes to that a shell is given."""
    readable = text.replace(MANY, "*").replace(ONE, "?")
    if UNSEEN in text or command.shell is None:
        # What is known of it is looked at as well.
        yield Action(code=_how_unseen(command, [text]), folders=command.folders)
        readable = re.sub(f"{UNSEEN}+", "${ally_unseen}", readable)
        if command.shell is None or not readable.strip("${}aly_unse \n"):
            return
    shell = command.shell.copy()
    shell.folders = command.folders
    for number, each in enumerate(arguments or []):
        shell.variables[str(number)] = (each,)
    if arguments and len(arguments) > 1:
        shell.variables["@"] = shell.variables["*"] = (" ".join(arguments[1:]),)
    yield from actions_of(readable, shell)


def _how_unseen(command: Command, words: list[str]) -> str:  # noqa: ARG001 - what they were made of stands in `inner`
    """Say where a program or a text comes from that cannot be seen."""
    sources = [*command.inner, *command.before, *(each for one in command.before for each in one.before)]
    names = {name_of(each) for source in sources for each in source.words[:2]}
    return "downloaded" if names & _DOWNLOADERS else "unseen"


def _after(words: list[str], options: set[str]) -> list[str]:
    return [words[at + 1] for at in range(len(words) - 1) if words[at] in options]


# --- programs that run a text that is no shell's ---


def _interpreter(program: str) -> str | None:
    base = re.sub(r"[\d.]+$", "", program)
    return INTERPRETERS.get(base)


def _of_interpreter(command: Command, words: list[str], letters: str) -> Iterator[Action]:
    """Look for files, hosts and commands in a program's text: what it names in plain sight, and nothing more."""
    text = None
    for at, each in enumerate(words[1:], 1):
        if not letters and words[at - 1] in {"-F", "-v"}:
            continue
        if letters and re.fullmatch(f"-[A-Za-z]*[{letters}]|--eval|--print", each):
            text = words[at + 1] if at + 1 < len(words) else None
            break
        if each in {"eval", "-"} or (not letters and not each.startswith("-")):
            text = command.given if each == "-" else words[at + 1] if each == "eval" and at + 1 < len(words) else each
            break
        if not each.startswith("-"):
            return
    else:
        text = command.given
    if text is None:
        return
    if text == UNSEEN:
        yield Action(code=_how_unseen(command, [text]), folders=command.folders)
        return
    yield from _of_code(command, text)


def _of_code(command: Command, text: str) -> Iterator[Action]:
    literals = [one or other or third for one, other, third in _LITERAL.findall(text)]
    words = [each for each in literals if each and len(each) < 4096]  # noqa: PLR2004 - the longest path
    yield Action(reads=words, writes=words, hosts=URL.findall(text), folders=command.folders)
    if _REMOVES.search(text):
        yield Action(words=["rm", "-r", *words], reads=words, writes=words, folders=command.folders)
    if _STARTS.search(text) and command.shell is not None:
        # Which of them is the program, and which the module that starts it, is not looked for.
        texts = [each for each in words if " " in each] + re.findall(r"`([^`\n]+)`", text)
        texts += [" ".join(words[at:]) for at in range(min(len(words), MAX_STARTS))]
        for each in texts:
            shell = command.shell.copy()
            yield from (found for found in actions_of(each, shell) if found.code != "unparsed")


# --- files and hosts ---


def _action(command: Command, words: list[str], *, is_outer: bool = False) -> Action:
    program = name_of(words[0]) if words else ""
    reads, writes = list(command.reads), list(command.writes)
    if words and not is_outer:
        named = list(_named_files(program, words[1:]))
        if program == "find" and "-delete" in words:
            writes += _found_by(words)
        if program == "cp" and len(named) > 1 and not _after(words, {"-t", "--target-directory"}):
            writes, reads, named = [*writes, named[-1]], [*reads, *named[:-1]], []
        writes += [] if program in _READERS or program in _NAMERS else named
        reads += [] if program in _WRITERS or program in _NAMERS else named
    hosts = [host for each in (*words, *reads, *writes) for host in _hosts_of(each)]
    if program in _NETWORKERS and not is_outer:
        hosts += [host for each in _arguments(words[1:]) if (host := _host(each))]
    return Action(words, reads, writes, hosts, command.folders)


def _hosts_of(word: str) -> list[str]:
    return URL.findall(word) + _DEVICE.findall(word)


def _host(word: str) -> str:
    found = re.fullmatch(r"(?:[\w.+-]+@)?([\w.-]+)(?:[:/].*)?", word, re.DOTALL)
    return found[1] if found is not None and not word.startswith("/") else ""


def _arguments(words: list[str]) -> Iterator[str]:
    """Return the words that are neither options nor the values of such."""
    skips = False
    for each in words:
        if skips:
            skips = False
        elif each in _FILE_OPTIONS:
            skips = True
        elif not each.startswith("-"):
            yield each


def _named_files(program: str, words: list[str]) -> Iterator[str]:
    """Return what may be the name of a file in a program's words, whatever they are for."""
    skips_pattern = program in _SEARCHERS and not any(each in {"-e", "-f", "--regexp", "--file"} for each in words)
    for at, each in enumerate(words):
        if program == "git" and at and words[at - 1] in {"-m", "--message"}:
            continue
        if skips_pattern and not each.startswith("-"):
            skips_pattern = False
            continue
        yield from _names_in(each)


def _names_in(word: str) -> Iterator[str]:
    if "\n" in word or URL.match(word):
        if word.lower().startswith("file://"):
            yield "/" + word[7:].partition("/")[2]
        return
    yield word
    if word.startswith("-") and not word.startswith("--") and len(word) > 2:  # noqa: PLR2004 - `-f` has no value in it
        yield word[2:]
    for sign in "=@:":
        if sign in word:
            yield from (part for part in word.split(sign)[1:] if part)
    if ":" in word:
        yield word.partition(":")[0]
