"""The host's own gate: what it sees of a call that would loosen the guard, and how much else it lets be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins import Allow, Host, ToolCall
from ally_plugins.adapters.coding.dialects import DIALECTS
from ally_plugins.adapters.coding.serving.conversations import Conversations
from ally_plugins.adapters.coding.serving.own_gate import OwnGate
from ally_plugins.adapters.coding.settings.connections import own_code
from ally_plugins.catalog.home.folder import Home
from ally_plugins.cli.shell.main import cli
from ally_plugins.contract.tools.common_names import TOOL_NAMES
from ally_plugins.policy.looking_commands import CHANGING, LOOKING, may_loosen
from ally_plugins.testing.agents.reactions import react
from tests.kit.commands import run_command
from tests.kit.hosts import make_plugin, setup
from tests.kit.waiting import go

from .agents import recorded
from .shell_attacks import AROUND, EVERYDAY

if TYPE_CHECKING:
    from pathlib import Path

HOME = "/home/u/.local/state/ally-plugins"
SETTINGS = "/home/u/.claude/settings.json"
GATE = OwnGate(
    (HOME, "/home/u/.config/opencode/plugin", "/srv/state", "/opt/venv/lib/python3.11/site-packages/ally_plugins"),
    (SETTINGS, "/home/u/.claude/settings.local.json", "/home/u/.codex/hooks.json", "/home/u/.codex/config.toml"),
    "/home/u",
)


def bash(line: str) -> ToolCall:
    return ToolCall("Bash", {"command": line}, "c1", common_name="bash")


DENIED = [
    # Commands that may loosen, however they are started.
    "ally-plugins disable secret-guard",
    "/opt/venv/bin/ally-plugins disable secret-guard",
    "ally-plugins --home /elsewhere --json disable secret-guard",
    "ally-plugins enable x --yes",
    "ally-plugins config secret-guard level=0",
    "ally-plugins config secret-guard --unset level",
    "ally-plugins tasks --cancel t-1",
    "ally-plugins connect claude --project .",
    "ally-plugins review --agree",
    "ally-plugins something-new",
    # The program's name is what another command prints, or what a variable came to.
    "$(echo ally-plugins) revoke secret-guard x",
    "x=$(printf %s ally-plugins); $x disable secret-guard",
    "printf -v c %s ally-plugins; $c uninstall x",
    'read -r c <<< ally-plugins; "$c" purge s1',
    # What a folder holds comes under names that the line does not say.
    "rsync -a /tmp/e/ ~/.claude/",
    "cp -r /tmp/e/. ~/.codex",
    "cp /tmp/e/* ~/.claude",
    "cp -rT /tmp/e ~/.claude",
    "cp -t ~/.claude /tmp/e/*",
    "python -m ally_plugins disable x",
    "python3.12 -Im ally_plugins disable x",
    "python -mally_plugins disable x",
    "cd /tmp && FOO=1 ally-plugins disable x; ls",
    "true | ally-plugins disable x",
    "ls\nally-plugins disable x",
    "if true; then ally-plugins disable x; fi",
    "(ally-plugins disable x)",
    "{ ally-plugins disable x; }",
    "! ally-plugins disable x",
    "echo $(ally-plugins disable x)",
    'echo "done: $(ally-plugins disable x)"',
    "echo `ally-plugins disable x`",
    "diff <(ally-plugins disable x) y",
    "al''ly-plugins dis\\able x",
    "$'\\x61lly-plugins' disable x",
    "A=ally-plugins; $A disable x",
    "sudo -E ally-plugins disable x",
    "env -i HOME=/x ally-plugins disable x",
    "nohup setsid ally-plugins disable x &",
    "timeout 10s ally-plugins disable x",
    "echo x | xargs ally-plugins disable",
    "uv run ally-plugins disable x",
    "bash -c 'ally-plugins disable x'",
    "bash -lc 'sh -c \"ally-plugins disable x\"'",
    "eval ally-plugins disable x",
    "bash <<EOF\nally-plugins disable x\nEOF",
    "bash <<< 'ally-plugins disable x'",
    "echo ally-plugins disable x | sh",
    "printf 'ally-plugins disable x' | tee log | bash",
    "echo 'ally-plugins disable x' | at now",
    "tmux new-window 'ally-plugins disable x'",
    "systemd-run --user ally-plugins disable x",
    "script -qc 'ally-plugins disable x' /dev/null",
    "ssh localhost ally-plugins disable x",
    "find . -maxdepth 0 -exec ally-plugins disable x \\;",
    f"{HOME}/hooks/hook disconnect claude",
    "cd ~/.local/state/ally-plugins/hooks && ./hook disconnect claude",
    # By whatever else may run a command that is named to it.
    "env -S 'ally-plugins disable x'",
    "env --split-string='ally-plugins disable x'",
    "env -u FOO ally-plugins disable x",
    "timeout -s KILL 10 ally-plugins disable x",
    "exec -a foo ally-plugins disable x",
    "strace -f ally-plugins disable x",
    "conda run -n base ally-plugins disable x",
    "flock /tmp/l -c 'ally-plugins disable x'",
    "busybox sh -c 'ally-plugins disable x'",
    "bash -c -x 'ally-plugins disable x'",
    "bash -cx 'ally-plugins disable x'",
    "bash -c '\"$@\"' - ally-plugins disable x",
    "fish --command='ally-plugins disable x'",
    "trap 'ally-plugins disable x' EXIT",
    "coproc ally-plugins disable x",
    "function f { ally-plugins disable x; }; f",
    "f() { ally-plugins disable x; }; f",
    "alias d='ally-plugins disable x'; d",
    "git -c core.pager='ally-plugins disable x' log",
    "git -c alias.x='!ally-plugins disable x' x",
    "git config alias.x '!ally-plugins disable x'",
    "GIT_PAGER='ally-plugins disable x' git log",
    "export GIT_EDITOR='ally-plugins disable x'; git commit",
    "vim -c ':!ally-plugins disable x' -c q",
    "make --eval 'a: ; ally-plugins disable x' a",
    "tar cf /dev/null x --checkpoint=1 --checkpoint-action=exec='ally-plugins disable x'",
    "awk 'BEGIN{system(\"ally-plugins disable x\")}'",
    'perl -e \'exec "ally-plugins","disable","x"\'',
    'node -e \'require("child_process").execSync("ally-plugins disable x")\'',
    "ruby -e '`ally-plugins disable x`'",
    'python3 -c \'import subprocess; subprocess.run(["ally-plugins","disable","x"])\'',
    'python -c \'from ally_plugins.cli.entry import main; main(["disable","x"])\'',
    "python -c 'import runpy; runpy.run_module(\"ally_plugins\")' disable x",
    "echo 'disable x' | xargs ally-plugins",
    "cat words | xargs ally-plugins",
    "sh <(echo ally-plugins disable x)",
    ". <(echo ally-plugins disable x)",
    "source /dev/stdin <<< 'ally-plugins disable x'",
    "echo YWxseS1wbHVnaW5zIGRpc2FibGUgeA== | base64 -d | sh",
    "C='ally-plugins disable x'; $C",
    "IFS=,; C=ally-plugins,disable,x; $C",
    "ally-plugins${IFS}disable${IFS}x",
    'set -- ally-plugins disable x; "$@"',
    "{ally-plugins,disable,x}",
    r"$'ally-plugins\0x' disable x",
    r"$'\U00000061lly-plugins' disable x",
    "/opt/venv/bin/ally-plugin? disable x",
    "cat <<EOF\n$(ally-plugins disable x)\nEOF",
    "cat <<-EOF\n\t`ally-plugins disable x`\n\tEOF",
    "ally-plugins disable -- --help",
    "ally-plugins --home --help disable x",
    # Writing what guards.
    f"echo 'enabled = false' > {HOME}/config.toml",
    "echo x >> ~/.local/state/ally-plugins/config.toml",
    'echo x >| "$HOME/.claude/settings.json"',
    "echo x &> ${HOME}/.claude/settings.json",
    "cat > ~/.claude/settings.json <<'EOF'\n{}\nEOF",
    "cd ~/.claude && echo {} > settings.json",
    "cd ~ && cd .claude; tee settings.json < /dev/null",
    "echo {} | tee -a ~/.claude/settings.json",
    "rm ~/.claude/settings.json",
    "rm -rf ~/.claude",
    "rm -rf ~",
    "rm -rf ~/.claude/*",
    "rm -rf ~/.cl*",
    "rm -rf ~/.local/state",
    "mv ~/.local/state/ally-plugins /tmp/away",
    "find ~/.local/state/ally-plugins -delete",
    "find ~/.claude -name '*.json' -exec rm {} +",
    "sed -i s/hook/nothing/ ~/.claude/settings.json",
    "cp /tmp/mine.json ~/.claude/settings.json",
    "cp /tmp/settings.json ~/.claude/",
    "cp -r /tmp/x/.claude ~",
    "cp -t ~/.claude /tmp/settings.json",
    "install -m 600 x ~/.codex/hooks.json",
    "dd if=/dev/zero of=/home/u/.claude/settings.json",
    "truncate -s 0 ~/.codex/config.toml",
    "chmod 000 ~/.local/state/ally-plugins/hooks/hook",
    f"sqlite3 {HOME}/journal.db vacuum",
    "jq '.hooks={}' x | sponge ~/.claude/settings.json",
    "curl -o ~/.claude/settings.json http://x",
    "python -c \"open('/home/u/.claude/settings.json','w').write('{}')\"",
    "python3 - <<'EOF'\nimport os\nos.remove(os.path.expanduser('~/.claude/settings.json'))\nEOF",
    'node -e \'fs.writeFileSync(".claude/settings.json", "{}")\'',
    "perl -pi -e s/a/b/ ~/.claude/settings.json",
    "echo {} > .claude/settings.local.json",
    "git checkout HEAD~1 -- .claude/settings.json",
    "vim -c wq .gemini/settings.json",
    "F=~/.claude/settings.json; rm $F",
    "for f in ~/.claude/settings.json; do rm $f; done",
    "ally-plugins export s-1 --out ~/.local/state/ally-plugins/config.toml",
    "apply_patch <<'EOF'\n*** Begin Patch\n*** Update File: .codex/hooks.json\n@@\n*** End Patch\nEOF",
    # In a folder, by a name that something else says, in the middle of a text.
    "tee ~/.claude/{settings,x}.json",
    "touch " + "{a,b}" * 12 + "; tee ~/.claude/{settings,x}.json",
    r"rm $'/home/u/.claude/settings.json\0.bak'",
    "env -C ~/.claude tee settings.json",
    "git -C ~/.claude checkout settings.json",
    "git --work-tree=/home/u/.claude checkout -f",
    "make -C ~/.claude",
    "tar -C ~/.claude -xf x.tar",
    "tar xf x.tar -C ~/.claude",
    "cd ~/.claude && tar xf /tmp/x.tar",
    "tar cf ~/.claude/settings.json x",
    "unzip x.zip -d ~/.claude",
    "wget -P ~/.claude http://x/settings.json",
    "curl --output-dir ~/.claude -O http://x/settings.json",
    "patch -d ~/.claude < x.diff",
    "patch -p0 <<'EOF'\n--- .claude/settings.json\n+++ .claude/settings.json\nEOF",
    "sort -o ~/.claude/settings.json x",
    "uniq x ~/.claude/settings.json",
    "xxd -r x ~/.claude/settings.json",
    "yq -i '.hooks={}' ~/.claude/settings.json",
    "sed -n 'w /home/u/.claude/settings.json' x",
    "script -q ~/.claude/settings.json",
    "ln -s ~/.claude x; echo > x/settings.json",
    "ln -s ~ x; echo > x/.claude/settings.json",
    "mount --bind /tmp/x ~/.claude",
    "find ~ -name settings.json | xargs rm",
    "grep -rl hooks ~/.claude | xargs sed -i s/a/b/",
    "echo ~/.claude/settings.json | xargs rm",
    "xargs rm <<< ~/.claude/settings.json",
    'rm "$(echo ~/.claude/settings.json)"',
    "sed -i s/a/b/ $(grep -rl hooks ~/.claude)",
    "bash -c 'rm \"$1\"' - ~/.claude/settings.json",
    "python -c \"from pathlib import Path; Path.home().joinpath('.claude','settings.json').write_text('x')\"",
    "python -c \"import os; os.chdir('/home/u/.claude'); open('settings.json','w')\"",
    "cd ~/.claude && python -c \"open('settings.json','w')\"",
    "python -c \"import shutil; shutil.rmtree('/home/u/.claude')\"",
    "ruby -e 'File.delete(\"/home/u/.claude/settings.json\")'",
    "emacs --batch --eval '(delete-file \"~/.claude/settings.json\")'",
    "rm -rf /srv/./state/../state",
    "(" * 12 + "ls" + ")" * 12 + "$(" * 12 + "ls" + ")" * 12,
]

ALLOWED = [
    "ally-plugins list",
    "ally-plugins --json list",
    "ally-plugins info secret-guard",
    "ally-plugins disable --help",
    "ally-plugins --version",
    "ally-plugins config secret-guard",
    "ally-plugins connect --status",
    "ally-plugins audit --json | jq .",
    "python -m ally_plugins explain d-1",
    "ls -la ~/.claude ~/.local/state/ally-plugins",
    "cat ~/.claude/settings.json",
    "jq .hooks < ~/.claude/settings.json > /tmp/hooks.json",
    "cp ~/.claude/settings.json /tmp/backup.json",
    "grep -rn hooks ~/.claude/settings.json .claude/settings.json",
    "diff ~/.claude/settings.json .claude/settings.json",
    "find ~/.local/state/ally-plugins -name '*.toml'",
    "sed -n 1,5p ~/.claude/settings.json",
    "git diff .claude/settings.json && git add .claude/settings.json",
    'git commit -m "Tell of ally-plugins disable and ~/.claude/settings.json"',
    "grep -rn 'ally-plugins disable' docs",
    "echo 'run: ally-plugins enable x' >> README.md",
    "cat > docs/how-to.md <<'EOF'\nally-plugins disable x\nrm ~/.claude/settings.json\nEOF",
    "cat >> notes.md <<EOF\nally-plugins connect claude\nEOF\nls",
    "pip install ally-plugins",
    "git clone https://example.org/ally-plugins disable",
    "git -C ~/.claude log",
    "tar czf /tmp/backup.tgz -C ~/.claude .",
    "sudo git commit -m 'ally-plugins disable x'",
    "git log --grep 'ally-plugins disable' | head",
    "sed -i 's/ally-plugins disable/ally-plugins enable/' docs/a.md",
    'curl -d \'{"text": "run ally-plugins disable x"}\' http://x',
    "pip install -U ally-plugins && systemctl enable x",
    "MSG='ally-plugins disable x'; git commit -m \"$MSG\"",
    "python -c 'import ally_plugins; print(ally_plugins.__version__)'",
    "cp -r ally-plugins release",
    "cd ~/src/ally-plugins && $PYTHON -m pytest; $MAKE release",
    "cp -r build/. /srv/www/",
    "cp ~/.claude/skills/x/* /tmp/skill/",
    "rsync -a docs/ ~/.claude/skills/x/",
    "tar xf x.tar -C ~",
    "ls $(find . -name settings.json)",
    "kill $(pgrep -f ally-plugins)",
    "case $1 in *) ls;; esac",
    "find . -name '*.pyc' | xargs rm",
    "ally-plugins list | xargs -n 1 echo",
    "cd ally-plugins && pytest -q",
    "rm -rf ./build node_modules/.cache",
    "rm -rf /tmp/.claude-cache",
    "mkdir -p .claude/commands && echo x > .claude/commands/a.md",
    "npm --prefix ~ run build",
    "pytest ~/project/tests",
    "tar czf backup.tgz ~/.claude",
    "python -c \"import json; print(json.load(open('/home/u/.claude/settings.json')))\"",
    "python manage.py --settings settings.json",
    "cp settings.json config/settings.json",
    "gh pr create --body 'this changes .claude/settings.json for all'",
    "# ally-plugins disable x",
    "echo ally-plugins disable x",
    "kill %1; wait; exit 3",
    "for f in *.py; do wc -l $f; done",
    "chmod +x run.sh; ./run.sh > out.log 2>&1 &",
    "a=(1 2 3); echo ${a[@]} $((1 + 2)) ${x:-y}",
    "case $x in a) ls;; *) pwd;; esac",
    "test -f ~/.claude/settings.json && echo there",
    "echo '",
    'echo "$(',
    "",
]


@pytest.mark.parametrize("line", [*DENIED, *AROUND])
def test_a_line_that_would_loosen_is_denied(line: str) -> None:
    assert GATE.why_denied(bash(line), "/home/u/project")


@pytest.mark.parametrize("line", [*ALLOWED, *EVERYDAY])
def test_a_line_that_reads_or_only_tells_of_it_is_not(line: str) -> None:
    assert GATE.why_denied(bash(line), "/home/u/project") is None


@pytest.mark.parametrize(
    ("call", "is_denied"),
    [
        (ToolCall("Write", {"path": SETTINGS, "content": "{}"}, common_name="write"), True),
        (ToolCall("Write", {"path": "../.claude/settings.json", "content": ""}, common_name="write"), True),
        (ToolCall("Write", {"path": "~/.codex/config.toml", "content": ""}, common_name="write"), True),
        (ToolCall("Edit", {"path": f"{HOME}/consent.toml", "old_text": "a"}, common_name="edit"), True),
        (ToolCall("Edit", {"path": "/home/u/project/.gemini/settings.json"}, common_name="edit"), True),
        (ToolCall("Edit", {"path": "/home/u/project/.pi/settings.json"}, common_name="edit"), True),
        (ToolCall("Write", {"path": "/home/u/project/a.md", "content": f"rm {SETTINGS}"}, common_name="write"), False),
        (ToolCall("Write", {"path": "/home/u/project/settings.json", "content": ""}, common_name="write"), False),
        (ToolCall("Read", {"path": SETTINGS}, common_name="read"), False),
        (ToolCall("Grep", {"path": HOME, "pattern": "x"}, common_name="search"), False),
        (ToolCall("mcp__fs__write_file", {"path": SETTINGS, "content": "{}"}), True),
        (ToolCall("mcp__fs__move", {"files": [{"from": "a", "to": SETTINGS}]}), True),
        (ToolCall("mcp__fs__read_file", {"path": SETTINGS}), False),
        (ToolCall("mcp__shell__run", {"cmd": "ally-plugins disable x"}), True),
        (ToolCall("mcp__shell__run", {"command": "ally-plugins", "args": ["disable", "x"]}), True),
        (ToolCall("mcp__shell__run", {"cmd": ["ally-plugins", "disable", "x"]}), True),
        (ToolCall("mcp__shell__run", {"argv": ["/opt/bin/ally-plugins", "disable", "x"]}), True),
        (ToolCall("mcp__shell__run", {"Commands": ["ls", "ally-plugins disable x"]}), True),
        (ToolCall("mcp__shell__run", {"command": "ally-plugins", "args": ["list"]}), False),
        (ToolCall("bash", {"command": f"rm {SETTINGS}"}), True),
        (ToolCall("exec", {"command": "rm settings.json", "workdir": "/home/u/.claude"}, common_name="bash"), True),
        (ToolCall("exec", {"command": "rm settings.json", "cwd": "../.claude"}, common_name="bash"), True),
        (ToolCall("exec", {"command": "rm -r .claude", "dir_path": "/home/u"}, common_name="bash"), True),
        (ToolCall("exec", {"command": "rm settings.json", "workdir": "/home/u/x"}, common_name="bash"), False),
        (ToolCall("Write", {"path": f"{SETTINGS}\0.md", "content": "{}"}, common_name="write"), True),
        (ToolCall("\uff22ash", {"command": f"rm {SETTINGS}"}), True),
        (ToolCall("MultiEdit", {"path": SETTINGS, "edits": []}, common_name="edit"), True),
        (ToolCall("mcp__notebook__edit", {"notebook_path": SETTINGS}), True),
        (ToolCall("mcp__mail__send", {"text": f"look at {SETTINGS}"}), False),
        (ToolCall("shell", {"command": ["bash", "-lc", "ally-plugins disable x"]}, common_name="bash"), True),
        (ToolCall("shell", {"command": ["bash", "-lc", "ally-plugins list"]}, common_name="bash"), False),
        (ToolCall("apply_patch", {"input": f"*** Update File: {SETTINGS}\n"}, common_name="edit"), True),
        (ToolCall("apply_patch", {"input": "*** Update File: a.py\n"}, common_name="edit"), False),
        (ToolCall("Task", {"prompt": "run ally-plugins disable x"}, common_name="agent"), False),
    ],
)
def test_tools_are_held_to_the_paths_that_they_write(call: ToolCall, *, is_denied: bool) -> None:
    assert (GATE.why_denied(call, "/home/u/project") is not None) is is_denied


def test_a_link_leads_where_it_leads(tmp_path: Path) -> None:
    (tmp_path / "home").mkdir()
    (tmp_path / "home" / "config.toml").touch()
    (tmp_path / "short").symlink_to(tmp_path / "home")
    (tmp_path / "other.toml").symlink_to(tmp_path / "home" / "config.toml")
    gate = OwnGate((str(tmp_path / "home"),), (), "/home/u")
    linked = OwnGate((str(tmp_path / "short"),), (), "/home/u")
    for line in ("echo x > short/config.toml", "rm other.toml", "echo x > home/config.toml"):
        assert gate.why_denied(bash(line), str(tmp_path)), line
        assert linked.why_denied(bash(line), str(tmp_path)), line


PIECES = (
    "cd ",
    "xargs ",
    "env -S",
    "base64 -d",
    "sed 's/a/b/e'",
    "<<EOF\n",
    "EOF\n",
    "{a,b}",
    "${IFS}",
    "\0",
    "\1",
    "$@",
)


@given(
    st.text(alphabet=" \n\"'`$(){}<>|&;\\~/*ab-=#")
    | st.lists(st.sampled_from((*PIECES, *DENIED, *ALLOWED, " ", "|", ";", "'", "$("))).map("".join)
)
def test_no_line_makes_it_fail(line: str) -> None:
    found = GATE.why_denied(bash(line), "/home/u/project")
    assert found is None or isinstance(found, str)


def test_a_line_of_any_size_is_looked_at_or_denied() -> None:
    words = " ".join(f"dir{number}/file{number}.py" for number in range(4_000))
    assert GATE.why_denied(bash(f"some-tool {words} ~/.claude/settings.json"), "/home/u/project")
    assert "are looked at" in (GATE.why_denied(bash("a" * 600_000), "/home/u/project") or "")


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ("a+=x;" * 300, "has more than 200 values"),
        (f"for i in {' '.join(map(str, range(150)))}; do {'rm $i;' * 2_000} done", "stands for more commands"),
        (f"a=1; a=2; a=3; rm {'$a ' * 40_000}", "stands for more commands"),
        ("(a bbbbbbbbb)|" * 1_500, "its commands hand on more"),
        ("a|" * 9_000, "more than the 4000 commands"),
        ("a=xx;" + "a=$a$a;" * 40 + "$a", "characters in one"),
        (f"a={'x' * 9_000}; echo {'$a' * 900}", "more text than is looked at"),
        ("xargs " * 9_000, "would run each other"),
        ("sh -c " * 9_000, "words that are looked at"),
        ("rm " + "[" * 60_000, "would change"),
        (f"echo {'x' * 60_000} > f; " + "sh f;" * 20, "its commands hand on more"),
    ],
)
def test_a_line_that_stands_for_more_than_can_be_looked_at_is_denied(line: str, why: str) -> None:
    assert why in (GATE.why_denied(bash(line), "/home/u/project") or "")


def test_a_file_that_others_run_later_may_hold_no_line_that_would_loosen() -> None:
    for path, text, is_denied in (
        ("~/.bashrc", "ally-plugins disable x", True),
        (".git/hooks/pre-commit", "#!/bin/sh\nrm ~/.claude/settings.json", True),
        ("~/.bashrc", "export PATH=~/bin:$PATH", False),
        ("docs/bashrc.md", "ally-plugins disable x", False),
    ):
        call = ToolCall("Write", {"path": path, "content": text}, common_name="write")
        assert (GATE.why_denied(call, "/home/u/project") is not None) is is_denied, path


def test_the_files_of_the_program_itself_are_guarded_where_they_are_installed(tmp_path: Path) -> None:
    site = tmp_path / "lib" / "site-packages"
    assert own_code(site / "ally_plugins" / "x.py") == [site / "ally_plugins", site / "ally_plugins_contrib"]
    assert own_code(tmp_path / "checkout" / "ally_plugins" / "x.py") == []


def test_commands_that_change_something_are_none_of_those_that_look() -> None:
    program = set(cli.commands)
    changing = "disable enable grant revoke shadow release place env install uninstall prune restart disconnect call"
    assert LOOKING.isdisjoint(changing.split())
    assert set(changing.split()) <= program
    for name in changing.split():
        assert may_loosen([name, "x"])
    assert not may_loosen([])


def test_every_command_changes_something_or_only_looks() -> None:
    assert set(cli.commands) <= CHANGING | LOOKING
    assert CHANGING.isdisjoint(LOOKING)
    assert set(cli.commands) >= CHANGING


async def asked(home: Path, payload: dict[str, Any], agent: str, event: str) -> tuple[Any, list[str]]:
    """Return what an agent does with a host's answer to a hook, and the calls that its plugin saw, which allows all."""
    seen: list[str] = []

    def gate(self: Any, call: ToolCall) -> Allow:  # noqa: ARG001
        seen.append(call.tool_name)
        return Allow()

    given_plugin = setup(make_plugin(ally_gate_tool_call=gate), ["gate:tool_call"]).under("p")
    async with Host(home=Home("ally-plugins", home), discover=False, plugins={"p": given_plugin}) as host:
        reply = await Conversations(host).reply(agent, event, json.dumps(payload).encode(), 30)
        return react(agent, event, payload, (reply.exit_code, reply.stdout, reply.stderr)), seen


SHELL_EVENTS = {"claude": "PreToolUse", "codex": "PreToolUse", "gemini": "BeforeTool", "copilot": "preToolUse",
                "opencode": "tool.execute.before", "pi": "tool_call", "goose": "PreToolUse"}  # fmt: skip


def shell_payload(agent: str, line: str) -> dict[str, Any]:
    """Return a recorded payload of an agent's shell, with another line in it."""
    shells = [name for name, (common, _) in TOOL_NAMES[agent].items() if common == "bash"]
    for each in recorded(agent):
        text = json.dumps(each["payload"])
        if each["event"] != SHELL_EVENTS[agent] or not any(f'"{name}"' in text for name in shells):
            continue
        payload: dict[str, Any] = json.loads(text)
        for holder in (payload, *payload.values()):
            for name, value in list(holder.items()) if isinstance(holder, dict) else ():
                if isinstance(value, dict) and "command" in value:
                    value["command"] = line
                    return payload
                if name == "toolArgs" and isinstance(value, str):
                    holder[name] = json.dumps({**json.loads(value), "command": line})
                    return payload
    raise AssertionError(f"{agent} has no recorded call of a shell")


@pytest.mark.parametrize("agent", sorted(SHELL_EVENTS))
def test_every_agent_is_denied_a_loosening_command_before_plugins_are_asked(agent: str, tmp_path: Path) -> None:
    event = SHELL_EVENTS[agent]
    found, seen = go(asked(tmp_path, shell_payload(agent, "ally-plugins disable p"), agent, event))
    assert found.stopped
    assert seen == []
    found, seen = go(asked(tmp_path / "2", shell_payload(agent, "ally-plugins list"), agent, event))
    assert not found.stopped
    assert len(seen) == 1


def test_the_denial_is_in_the_audit_and_is_explained_as_the_hosts_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALLY_HOME", str(tmp_path))
    line = f"echo x > {tmp_path}/config.toml"
    go(asked(tmp_path, shell_payload("claude", line), "claude", "PreToolUse"))
    (row,) = [json.loads(each) for each in run_command("audit", "--kind", "decision", "--json").stdout.splitlines()]
    assert row["data"]["decided_by"] == ["the host"]
    shown = run_command("explain", row["id"]).stdout
    assert "deny by the host: a redirection would change" in shown
    assert line in shown


def test_recorded_calls_of_all_agents_are_denied_none() -> None:
    calls = []
    for agent, dialect in DIALECTS.items():
        for each in recorded(agent):
            if each["event"] != SHELL_EVENTS[agent]:
                continue
            hook = dialect.read(each["event"], json.dumps(each["payload"]).encode())
            assert hook.tool is not None
            calls.append((hook.tool.call, hook.cwd))
    assert [GATE.why_denied(call, cwd) for call, cwd in calls if GATE.why_denied(call, cwd)] == []
    assert len(calls) > 20
