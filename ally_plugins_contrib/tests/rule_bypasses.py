"""Ways around rules that a shell offers, each as a line that really does it, and what rule-guard makes of each.

`python ally_plugins_contrib/tests/rule_bypasses.py` writes the table of docs/how-to/contrib/rule-guard.md. The rules
that they go around: `canary --wipe` is denied by command, and `~/.ssh` by path.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Final, NamedTuple

from ally_plugins_contrib.rule_guard.deciding import Rules, call_of, decide
from ally_plugins_contrib.rule_guard.places import Places
from ally_plugins_contrib.rule_guard.rules import parse_rules

# ruff: noqa: E501, Q000, Q003 - lines of a shell, as they are
__all__ = ["BEGIN", "BYPASSES", "END", "RULES", "Bypass", "found_effect", "table"]

BEGIN: Final = "<!-- bypasses, written by ally_plugins_contrib/tests/rule_bypasses.py -->"
END: Final = "<!-- end of bypasses -->"
PAGE: Final = Path(__file__).parents[2] / "docs/how-to/contrib/rule-guard.md"

RULES: Final = """
[[rule]]
name = "no wiping"
effect = "deny"
command = "canary --wipe"
"""

SEEN, ASKED, UNSEEN = "deny", "ask", "none"
_B64 = "Y2FuYXJ5IC0td2lwZQ=="  # canary --wipe


class Bypass(NamedTuple):
    kind: str
    line: str
    effect: str
    needs: str = "bash"


BYPASSES: Final = (
    Bypass("plain", "canary --wipe", SEEN),
    Bypass("plain", "cat ~/.ssh/id_rsa", SEEN),
    Bypass("quoting", "c'anary' --wi\"p\"e", SEEN),
    Bypass("quoting", "c\\anary --wipe", SEEN),
    Bypass("quoting", "$'\\x63anary' --wipe", SEEN),
    Bypass('quoting', "c$'\\0junk'anary --wipe", SEEN),
    Bypass("quoting", "cat ~/'.ss'h/id_rsa", SEEN),
    Bypass("quoting", "cat $'\\x2fproc/self/root'$HOME/.s'sh'/id_rsa", SEEN),
    Bypass("braces", "{canary,--wipe}", SEEN),
    Bypass("braces", "cat {~/.ssh,x}/id_rsa", SEEN),
    Bypass("field separator", "canary${IFS}--wipe", SEEN),
    Bypass("globbing", "cat ~/.s?h/id_*", SEEN),
    Bypass("globbing", "cat ~/.[r-t]sh/id_rsa", SEEN),
    Bypass("globbing", "cat ~/.ssh/*", SEEN),
    Bypass("globbing", "touch -- --wipe; canary --w*", SEEN),
    Bypass("globbing", '"$BIN"/c?nary --wipe', SEEN),
    Bypass("variables", "c=canary; $c --wipe", SEEN),
    Bypass("variables", "c='canary --wipe'; $c", SEEN),
    Bypass("variables", "a=can; a+=ary; $a --wipe", SEEN),
    Bypass("variables", "d=~/.ssh; cat $d/id_rsa", SEEN),
    Bypass('variables', 'a=(canary --wipe); "${a[@]}"', SEEN),
    Bypass('variables', 'declare -n r=c; c=canary; $r --wipe', ASKED),
    Bypass("variables", "for d in ~/x ~/.ssh; do cat $d/id_rsa; done", SEEN),
    Bypass("variables", "${nothing:-canary} --wipe", SEEN),
    Bypass("variables", "$TOOL --wipe", ASKED),
    Bypass("variables", "can${nothing}ary --wipe", ASKED),
    Bypass("variables", 'cat "$KEYFILE"', UNSEEN),
    Bypass("`cd`", "cd ~/.ssh && cat id_rsa", SEEN),
    Bypass("`cd`", "cd ~; cd .ssh; cat *", SEEN),
    Bypass("`cd`", "cat ~/docs/../.ssh/id_rsa", SEEN),
    Bypass("links", "cat notes/id_rsa", SEEN),
    Bypass("links", "ln -s ~/.ssh l; cat l/id_rsa", SEEN),
    Bypass("links", "ln -s ~ h; cat h/.ssh/id_rsa", SEEN),
    Bypass("links", "ln -s \"$(command -v canary)\" x; ./x --wipe", UNSEEN),
    Bypass("`sh -c`", "sh -c 'canary --wipe'", SEEN),
    Bypass("`sh -c`", "bash -ec \"bash -c 'canary --wipe'\"", SEEN),
    Bypass("`sh -c`", "bash -c '$0 --wipe' canary", SEEN),
    Bypass("`sh -c`", "bash -c 'cat \"$1\"' - ~/.ssh/id_rsa", SEEN),
    Bypass("`sh -c`", "eval canary --wipe", SEEN),
    Bypass("`sh -c`", "trap 'canary --wipe' EXIT", SEEN),
    Bypass('`sh -c`', "trap -- 'canary --wipe' EXIT", SEEN),
    Bypass('`sh -c`', 'bash -c \'"$@"\' _ canary --wipe', SEEN),
    Bypass("`sh -c`", "sh -c \"$TOOL --wipe\"", ASKED),
    Bypass("pipes into a shell", "echo canary --wipe | sh", SEEN),
    Bypass("pipes into a shell", "echo Xnary --wipe | sed s/X/ca/ | sh", ASKED),
    Bypass("pipes into a shell", "echo -e 'canary\\x20--wipe' | bash", ASKED),
    Bypass("pipes into a shell", "source /dev/stdin <<< 'canary --wipe'", SEEN),
    Bypass("base64", f"echo {_B64} | base64 -d | sh", SEEN),
    Bypass("base64", f'eval "$(base64 -d <<< {_B64})"', SEEN),
    Bypass("base64", f'$(echo {_B64} | base64 -d)', SEEN),
    Bypass("base64", f'python3 -c "import base64, os; os.system(base64.b64decode(b\'{_B64}\').decode())"', UNSEEN, "python3"),
    Bypass("here-documents", "sh <<EOF\ncanary --wipe\nEOF", SEEN),
    Bypass("here-documents", "sh <<< 'canary --wipe'", SEEN),
    Bypass("here-documents", "cat <<EOF | bash\ncanary --wipe\nEOF", SEEN),
    Bypass("here-documents", "cat <<EOF\n$(canary --wipe)\nEOF", SEEN),
    Bypass("substitutions", "echo $(canary --wipe)", SEEN),
    Bypass("substitutions", "echo `canary --wipe`", SEEN),
    Bypass("substitutions", "cat <(canary --wipe)", SEEN),
    Bypass("substitutions", "echo $(($(canary --wipe) + 1))", SEEN),
    Bypass("substitutions", "a[$(canary${IFS}--wipe)0]=1", SEEN),
    Bypass("substitutions", "echo ${a[$(canary --wipe)0]}", SEEN),
    Bypass("substitutions", "declare -a a=($(canary --wipe))", SEEN),
    Bypass("substitutions", "[[ -n $(canary --wipe) ]]", SEEN),
    Bypass("substitutions", 'echo "$(<~/.ssh/id_rsa)"', SEEN),
    Bypass('substitutions', "cat $(printf '%s/%s' ~ .ssh/id_rsa)", SEEN),
    Bypass('substitutions', 'cat `ls ~/.ssh/id_rsa`', SEEN),
    Bypass("subscripts", "let 'a[$(canary --wipe)0]=1'", ASKED),
    Bypass("subscripts", "[[ 'a[$(canary --wipe)0]' -eq 0 ]]", ASKED),
    Bypass("subscripts", "x='a[$(canary --wipe)0]'; echo $((x))", ASKED),
    Bypass("variables that are run", "PS4='$(canary --wipe)'; set -x; :", SEEN),
    Bypass("variables that are run", "env GIT_SSH_COMMAND='canary --wipe;:' git ls-remote ssh://h/r", SEEN, "git"),
    Bypass("functions, aliases", "f() { canary \"$@\"; }; f --wipe", ASKED),
    Bypass("functions, aliases", "shopt -s expand_aliases\nalias x=canary\nx --wipe", SEEN),
    Bypass("control flow", "if true; then canary --wipe; fi", SEEN),
    Bypass("control flow", "while :; do (canary --wipe); break; done", SEEN),
    Bypass("control flow", "case a in a) canary --wipe;; esac", SEEN),
    Bypass("control flow", "false || { ! canary --wipe; }", SEEN),
    Bypass("programs that run others", "env A=1 canary --wipe", SEEN),
    Bypass("programs that run others", "env -S 'canary --wipe'", SEEN),
    Bypass('programs that run others', "env -vS 'canary --wipe'", SEEN),
    Bypass('programs that run others', 'env - PATH="$PATH" MARK="$MARK" canary --wipe', SEEN),
    Bypass("programs that run others", "command canary --wipe", SEEN),
    Bypass("programs that run others", "nohup nice -n 5 timeout 5 canary --wipe", SEEN),
    Bypass("programs that run others", "(exec canary --wipe)", SEEN),
    Bypass("programs that run others", "busybox env canary --wipe", SEEN, "busybox"),
    Bypass("programs that run others", "script -qc 'cat ~/.ssh/id_rsa' /dev/null", SEEN, "script"),
    Bypass("`xargs`", "echo --wipe | xargs canary", SEEN),
    Bypass("`xargs`", "echo canary | xargs -I{} sh -c '{} --wipe'", SEEN),
    Bypass("`xargs`", "echo ~/.ssh/id_rsa | xargs cat", SEEN),
    Bypass("`xargs`", "cat words | xargs canary", ASKED),
    Bypass('`xargs`', 'ls -d ~/.ssh/* | xargs cat', SEEN),
    Bypass('`xargs`', 'cd ~/.ssh; ls | xargs cat', SEEN),
    Bypass('`xargs`', 'echo ~/.ssh/* | xargs cat', SEEN),
    Bypass('`xargs`', 'ls -d ~/.ssh/id_rsa | while read -r f; do cat $f; done', UNSEEN),
    Bypass("`find`", "find . -maxdepth 0 -exec canary --wipe \\;", SEEN),
    Bypass("`find`", "find ~/.ssh -type f -exec cat {} +", SEEN),
    Bypass("`find`", "find ~ -name id_rsa -exec cat {} +", SEEN),
    Bypass('`find`', "find ~ -path '*ssh*' -type f -exec cat {} +", UNSEEN),
    Bypass("`find`", "find ~ -size -2 -type f -exec cat {} +", UNSEEN),
    Bypass("folders above", "grep -r . ~", UNSEEN),
    Bypass("redirections", "while read -r l; do echo $l; done < ~/.ssh/id_rsa", SEEN),
    Bypass("redirections", "dd if=$HOME/.ssh/id_rsa", SEEN),
    Bypass("other programs", "python3 -c 'import os; os.system(\"canary --wipe\")'", SEEN, "python3"),
    Bypass("other programs", "python3 -c 'import subprocess; subprocess.run([\"canary\", \"--wipe\"])'", SEEN, "python3"),
    Bypass("other programs", "python3 - <<'EOF'\nimport os\nprint(open(os.path.expanduser('~/.ssh/id_rsa')).read())\nEOF", SEEN, "python3"),
    Bypass("other programs", "awk 'BEGIN { system(\"canary --wipe\") }'", SEEN, "awk"),
    Bypass("other programs", "perl -e 'exec \"canary\", \"--wipe\"'", SEEN, "perl"),
    Bypass("other programs", "python3 -c 'import os; os.system(chr(99) + \"anary --wi\" + \"pe\")'", UNSEEN, "python3"),
    Bypass("other programs", "git -c alias.x='!canary --wipe' x", SEEN, "git"),
    Bypass("other programs", "tar cf /dev/null --checkpoint=1 --checkpoint-action=exec='canary --wipe' words", SEEN, "tar"),
    Bypass('other programs', "sed '1e canary --wipe' words", SEEN),
    Bypass('other programs', "sed 's/.*/canary --wipe/e;q' words", SEEN),
    Bypass('other programs', "make --eval 'a: ; canary --wipe' a", SEEN, "make"),
    Bypass('other programs', "make -f - <<< $'a:\\n\\tcanary --wipe'", SEEN, "make"),
    Bypass('other programs', "git init -q; git -c core.fsmonitor='canary --wipe;:' status", SEEN, "git"),
    Bypass('other programs', "git -c core.sshCommand='canary --wipe' ls-remote ssh://h/r", SEEN, "git"),
    Bypass('other programs', "tar cf /dev/null -I 'canary --wipe' words", SEEN),
    Bypass('other programs', "perl -e 'exec qw(canary --wipe)'", SEEN, "perl"),
    Bypass('other programs', 'node -e \'require("child_process").spawnSync("canary",["--wipe"])\'', SEEN, "node"),
    Bypass('other programs', "vim -es -c '!canary --wipe' -c q", SEEN, "vim"),
    Bypass('of bash alone', "mapfile -C 'canary --wipe #' -c 1 a <<< x", SEEN),
    Bypass('of bash alone', "compgen -C 'canary --wipe' x", SEEN),
    Bypass('of bash alone', 'jobs -x canary --wipe', SEEN),
    Bypass('of bash alone', 'hash -p "$BIN/canary" ls; ls --wipe', ASKED),
    Bypass('of bash alone', '{fd}>/dev/null canary --wipe', SEEN),
    Bypass('of bash alone', 'x=\'$(canary --wipe)\'; echo "${x@P}"', ASKED),
    Bypass("files", "printf 'canary --wipe' > run.sh; sh run.sh", UNSEEN),
    Bypass("files", "printf 'all:\\n\\tcanary --wipe\\n' > Makefile; make", UNSEEN, "make"),
    Bypass("files", "cp \"$(command -v canary)\" y; ./y --wipe", UNSEEN),
    Bypass('files', 'sh "$BIN/canary" --wipe', UNSEEN),
    Bypass("unicode", "canary\u200b --wipe || canary --wipe", SEEN),
)  # fmt: skip
"""Each is run by a test, so that none is here that does not do it."""

_WORDS: Final = {SEEN: "denied", ASKED: "asked about", UNSEEN: "**runs**: the sandbox alone would stop it"}


def found_effect(line: str, home: str, project: str) -> str:
    """Return what rule-guard makes of a line, with the built-in rules and those above."""
    places = Places(home, project)
    rules = Rules.of(parse_rules(RULES.encode(), "rules"), [])
    return decide(call_of("bash", "bash", {"command": line}, places), rules, places).effect


def table() -> str:
    """Return the table, in Markdown."""
    rows = ["| | a command line | |", "|---|---|---|"]
    for kind, line, effect, _ in BYPASSES:
        shown = line.replace("\n", " ⏎ ").replace("|", "\\|").replace("\u200b", "<U+200B>")
        rows.append(f"| {kind} | ``{shown}`` | {_WORDS[effect]} |")
    return "\n".join(rows)


def write() -> None:
    """Put the table into its page."""
    page = PAGE.read_text("utf-8")
    PAGE.write_text(
        re.sub(f"{BEGIN}.*{END}", lambda _: f"{BEGIN}\n\n{table()}\n\n{END}", page, flags=re.DOTALL), "utf-8"
    )


if __name__ == "__main__":
    write()
