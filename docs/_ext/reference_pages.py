"""Writes what the code says of itself into the pages: `python docs/_ext/reference_pages.py`; a test says when.

Owns how hooks, events, errors, commands and exported names are written down, between `<!-- generated: NAME -->` and
`<!-- end of NAME -->` of a page. Their words are the docstrings' and the help texts'.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import re
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import click

from ally_plugins.contract.values.compat import override, parse_source

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from ally_plugins import Serves
    from ally_plugins.contract.hookspecs import HookInfo
    from ally_plugins.wire.methods import Method

PLACE = re.compile(
    r"^<!-- generated: (?P<name>[\w -]+) -->$(?P<text>.*?^<!-- end of (?P=name) -->$)?", re.MULTILINE | re.DOTALL
)
FOLDER = Path(__file__).parents[1]


def doc(thing: object) -> str:
    """Return a docstring of one's own, not an inherited one; empty when there is none."""
    text = thing.__doc__ if inspect.isclass(thing) else getattr(thing, "__doc__", None)
    return inspect.cleandoc(text) if text else ""


def hooks(kind: str) -> str:
    """Return an entry for each hook of one kind: its arguments, its result, when it is called."""
    from ally_plugins.contract.hookspecs import HOOKS, HostHooks, PluginHooks

    def entry(info: HookInfo) -> str:
        spec = getattr(PluginHooks, info.name, None) or getattr(HostHooks, info.name)
        code = f"```text\n{info.name}{_signature(spec)}\n```"
        return f"### `{info.name}`\n\n{code}\n\n{doc(spec)}\n{_grant(info)}"

    return "\n".join(entry(info) for info in HOOKS.values() if info.kind == kind)


def _grant(info: HookInfo) -> str:
    if info.topic is not None:
        return f"\nNeeds the grant `{info.kind}:{info.topic}`.\n"
    if info.kind == "observe" and info.event_type not in (None, "*"):
        return f"\nNeeds the grant `events:{info.event_type}`.\n"
    return ""


def events() -> str:
    """Return an entry for each built-in event: its hook, its fields with their names in JSON."""
    from ally_plugins.contract.tables import annotations_of
    from ally_plugins.contract.values.event_types import hook_name
    from ally_plugins.contract.values.eventjson import json_name
    from ally_plugins.contract.values.events import EVENT_TYPES

    parts = []
    for name, cls in EVENT_TYPES.items():
        types = annotations_of(cls)
        rows = [
            f"| `{json_name(field)}` | `{field.name}` | `{_type(types[field.name])}` |" for field in _own_fields(cls)
        ]
        table = ["| in JSON | in Python | type |", "|---|---|---|", *rows] if rows else ["It carries no data."]
        parts.append("\n".join([f"### `{name}`", "", doc(cls), "", f"Hook: `{hook_name(name)}`.", "", *table, ""]))
    return "\n".join(parts)


def errors() -> str:
    """Return the tree of errors and an entry for each."""
    from ally_plugins.contract.values import errors as module

    tree = doc(module).partition("\n\n")[2].rpartition("\n\n")[0]
    classes = [getattr(module, name) for name in module.__all__]
    entries = "\n".join(f"### `{cls.__name__}`\n\n{doc(cls)}\n{_reason(cls)}" for cls in classes)
    return f"```text\n{tree}\n```\n\n## Each error\n\n{entries}"


LIMITS = {
    "messages_per_minute": "messages added",
    "events_per_minute": "events emitted",
    "context_reads_per_minute": "reads of the context",
    "logs_per_minute": "lines logged",
    "registrations_per_minute": "tools and actions registered",
    "action_requests_per_minute": "actions asked for",
    "questions_per_minute": "questions to the person",
    "tasks_per_minute": "tasks started",
    "calls_in_flight": "calls that wait for their answer at the same time",
    "running_tasks": "tasks that run at the same time",
    "tools": "tools registered at the same time",
    "message_bytes": "bytes of one message",
    "event_bytes": "bytes of one event's data",
    "arguments_bytes": "bytes of one action's arguments",
    "schema_bytes": "bytes of one tool's schema",
    "log_bytes": "bytes of one line in the log",
    "prompt_changes": "how often, in one session, what it adds to requests may change what they begin with: "
    "[the prompt cache](../how-to/prompt-cache.md)",
}


def limits() -> str:
    """Return the table of limits with their defaults. Raises KeyError for a limit that has no words here."""
    from ally_plugins.policy.budget import Limits

    rows = [f"| `{limit.name}` | {limit.default} | {LIMITS[limit.name]} |" for limit in attrs.fields(Limits)]
    return "\n".join(["| key | default | bounds |", "|---|---|---|", *rows])


def threats() -> str:
    """Return a row for each attack of tests/sandbox: what it came to, by the test's own result, and what refused it."""
    stored = json.loads((Path(__file__).parents[1] / "explanation" / "threats.json").read_text("utf-8"))
    kinds, rows = stored["kinds"], []
    for row in stored["rows"]:
        came = {place: _came_to(row["done"][place], kinds, row[place]) for place in ("process", "sandbox")}
        rows.append(f"| {row['what']} | {came['process']} | {came['sandbox']} |")
    return "\n".join(["| it tries to | in a process | in a sandbox |", "|---|---|---|", *rows])


def _came_to(done: list[str], kinds: list[str], held_by: str) -> str:
    if not done:
        return f"refused: {held_by}"
    if len(done) == len(kinds):
        return "**not kept**"
    users = dict.fromkeys(kind.partition(", ")[0] for kind in done)
    whole = [user for user in users if all(kind in done for kind in kinds if kind.startswith(f"{user}, "))]
    parts = whole + [kind for kind in done if kind.partition(", ")[0] not in whole]
    return f"**not kept** for {', nor for '.join(parts)}; else refused: {held_by}"


def serves() -> str:
    """Return a row for each adapter: the gates and transforms that it serves, and the events that never come."""
    from ally_plugins import Serves

    rows = []
    for name, served in served_by_adapters().items():
        cells = (_names(served.gates), _names(served.transforms), _names(Serves().events - served.events))
        rows.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(["| adapter | gates | transforms | events that never come |", "|---|---|---|---|", *rows])


def coding_agents() -> str:
    """Return what each coding agent serves, what not, and what only partly."""
    return "\n".join(f"### [`{name}`](agents/{name}.md), {_agent(name)}" for name in AGENTS)


AGENTS = ("claude", "codex", "gemini", "copilot", "opencode", "pi", "goose")


def _agent(name: str) -> str:
    from ally_plugins.adapters.coding.dialects import DIALECTS

    dialect = DIALECTS[name]
    served, missing = dialect.serves, sorted(each for each in dialect.serves.missing if ":" in each)
    parts = [f"seen in version {', '.join(dialect.versions)}\n"]
    parts.append(f"Gates: {_names(served.gates)}. Transforms: {_names(served.transforms)}.")
    parts.append(f"Not served: {_names(frozenset(missing))}.\n")
    parts += [f"- `{grant}`: {why}." for grant, why in dialect.limits.items()]
    return "\n".join([*parts, ""])


def agent_page(name: str) -> str:
    """Return what one coding agent serves, and what becomes of its events when nobody answers."""
    from ally_plugins import Serves
    from ally_plugins.adapters.coding.client.hook_client import CLOSED, PASSES
    from ally_plugins.adapters.coding.dialects import DIALECTS
    from ally_plugins.adapters.coding.settings.mcp_entries import NO_SERVERS

    dialect = DIALECTS[name]
    never = _names(Serves().events - dialect.serves.events)
    passes = frozenset(event for event, way in CLOSED[name].items() if way == PASSES)
    person = "is put to the person" if dialect.asks_person else "is a deny, which says how the person lets the call run"
    tools = f"offered as `{dialect.tool_prefix}NAME`" if dialect.tool_prefix else f"not offered: {NO_SERVERS[name]}"
    return "\n".join([
        f"## What is served, and what not\n\nThis was {_agent(name)}",
        f"A question of a gate (`Ask`) {person}. Plugins' tools are {tools}. Events that never come: {never}.\n",
        "## When nobody answers\n",
        f"Closed, in {name}'s own way: {_names(frozenset(CLOSED[name]) - passes)}. Let pass: {_names(passes)}.",
    ])  # fmt: skip


def agent_run(name: str) -> str:
    """Return the run of a coding agent that was recorded."""
    text = (Path(__file__).parents[1] / "how-to" / "agents" / "runs" / f"{name}.txt").read_text("utf-8")
    return f"```text\n{text}```"


def served_by_adapters() -> dict[str, Serves]:
    """Return what each adapter's module `serves` says, by the framework's name."""
    from ally_plugins import adapters

    # The kit's module is what the others derive theirs from.
    names = sorted({path.parent.name for path in Path(adapters.__path__[0]).glob("*/serves.py")} - {"kit"})
    return {
        name.replace("_", "-"): importlib.import_module(f"ally_plugins.adapters.{name}.serves").SERVES for name in names
    }


def _names(found: frozenset[str]) -> str:
    return ", ".join(f"`{name}`" for name in sorted(found)) or "none"


def commands() -> str:
    """Return the help text of each command, as `--help` prints it."""
    parts = [f"### `{path}`\n\n```text\n{_help(path, command)}\n```\n" for path, command in command_tree()]
    return "\n".join(parts)


def api() -> str:
    """Return an entry for each exported name: signature, docstring, and what a class offers."""
    import ally_plugins

    return _api_entries(ally_plugins)


def testing() -> str:
    """Return an entry for each name of the testing helpers."""
    from ally_plugins import testing as module

    return _api_entries(module, "testing.")


def command_tree() -> Iterator[tuple[str, click.Command]]:
    """Yield each command of the command line with its full name, groups before their members."""
    from ally_plugins.cli.shell import main as module

    def walk(path: str, command: click.Command) -> Iterator[tuple[str, click.Command]]:
        yield path, command
        for name, sub in sorted(getattr(command, "commands", {}).items()):
            if not sub.hidden:
                yield from walk(f"{path} {name}", sub)

    return walk("ally-plugins", module.cli)


def messages(sender: str) -> str:
    """Return an entry for each message of the wire that one side sends (`host`, `plugin`), or that both do (`both`)."""
    from ally_plugins.wire.methods import HOST_METHODS, METHODS, PLUGIN_METHODS

    shared = {name for name in HOST_METHODS if name.startswith("$/") and name in PLUGIN_METHODS}
    wanted = "host" if sender == "both" else sender
    chosen = [each for each in METHODS if each.sender == wanted and (each.name in shared) == (sender == "both")]
    return "\n".join(_message(each) for each in chosen)


def _message(method: Method) -> str:
    from ally_plugins.contract.tables import described_fields
    from ally_plugins.wire.methods import COMMON_ERRORS
    from ally_plugins.wire.samples import sample_frames

    where = " on the host's socket" if method.name == "initialize" and method.sender == "plugin" else ""
    parts = [f"### `{method.name}`{where}", method.doc]
    if fields := described_fields(method.params):
        rows = [f"| `{a.name}` | {_shape(a)} | {a.metadata['description']} |" for a in fields]
        parts.append("\n".join(["| params | type | meaning |", "|---|---|---|", *rows]))
    frames = sample_frames(method.sender, method.name, is_request=method.is_request)
    parts += [f"```json\n{json.dumps(frame, ensure_ascii=False)}\n```" for frame in frames]
    if method.is_request:
        errors = ", ".join(f"`{name}`" for name in dict.fromkeys((*method.errors, *COMMON_ERRORS)))
        parts.append(f"Answered with {method.result}. Errors: {errors}.")
    else:
        parts.append("A notification: it has no `id` and no answer.")
    return "\n\n".join(parts) + "\n"


def _shape(field: attrs.Attribute[Any]) -> str:
    expected = field.metadata["shape"].expected
    return expected if field.default is attrs.NOTHING else f"{expected}; optional"


def wire_errors() -> str:
    """Return the table of the codes."""
    from ally_plugins.wire.codes import CODES
    from ally_plugins.wire.schema import ERROR_DESCRIPTIONS

    rows = [f"| `{code}` | `{reason}` | {ERROR_DESCRIPTIONS[reason]} |" for reason, code in CODES.items()]
    return "\n".join(["| code | `data.reason` | meaning |", "|---|---|---|", *rows])


def _help(path: str, command: click.Command) -> str:
    context = click.Context(
        command,
        info_name=path,
        max_content_width=100,
        terminal_width=100,
        # As the program's own group has its commands inherit them; click keeps the first that it made.
        help_option_names=["-h", "--help"],
    )
    return command.get_help(context).replace("\b", "")


def _reason(cls: type) -> str:
    reason = getattr(cls, "reason", None)
    return f"\nReason in counters and audit: `{reason}`.\n" if isinstance(reason, str) else ""


def _api_entries(module: Any, prefix: str = "") -> str:
    names = sorted(module.__all__, key=str.lower)
    entries = [(name, _api_entry(f"{prefix}{name}", getattr(module, name))) for name in names]
    return "\n".join(f"{entry}{_words_of_constant(module, name)}" for name, entry in entries)


def _words_of_constant(module: Any, name: str) -> str:
    """Return the text that stands below a constant, which no object carries; empty for everything else."""
    home = next((home for home, names in getattr(module, "_HOMES", {}).items() if name in names.split()), None)
    source = inspect.getsource(importlib.import_module(f"{module.__name__}.{home}") if home else module)
    body = parse_source(source).body
    for statement, text in pairwise(body):
        targets = getattr(statement, "targets", [getattr(statement, "target", None)])
        if any(getattr(target, "id", None) == name for target in targets) and isinstance(text, ast.Expr):
            value = getattr(text.value, "value", None)
            return f"{inspect.cleandoc(value)}\n" if isinstance(value, str) else ""
    return ""


def _api_entry(name: str, thing: Any) -> str:
    lines = [f"### `{name}`", ""]
    if callable(thing) and (inspect.isclass(thing) or inspect.isfunction(thing)):
        lines += ["```text", f"{name}{_signature(thing)}", "```", ""]
    if inspect.isclass(thing) or inspect.isroutine(thing) or inspect.ismodule(thing):
        lines += [doc(thing), ""]
    if inspect.isclass(thing):
        lines += list(_members(thing))
    return "\n".join(lines)


def _members(cls: type) -> Iterator[str]:
    for name, member in vars(cls).items():
        if name.startswith("_") or not doc(member):
            continue
        if isinstance(member, property):
            yield f"- **`{name}`**: {_inline(doc(member))}"
        elif inspect.isfunction(member):
            yield f"- **`{name}{_signature(member)}`**: {_inline(doc(member))}"
    yield ""


def _inline(text: str) -> str:
    """Indent a docstring so that it stays inside its list item."""
    return text.replace("\n", "\n  ")


class _Bare:
    """A text that a signature shows without quotes."""

    def __init__(self, text: str) -> None:
        self.text = text

    @override
    def __repr__(self) -> str:
        return self.text


def _signature(thing: Callable[..., Any]) -> str:
    """Return the signature without `self`; a class that has none of its own gives nothing."""
    try:
        signature = inspect.signature(thing)
    except (TypeError, ValueError):
        return ""
    kept = [_plain(parameter) for name, parameter in signature.parameters.items() if name != "self"]
    result = signature.return_annotation
    return str(
        signature.replace(parameters=kept, return_annotation=_Bare(result) if isinstance(result, str) else result)
    )


def _plain(parameter: inspect.Parameter) -> inspect.Parameter:
    """Return a parameter with its annotation unquoted; a default that is made anew, a function or a set is `...`."""
    annotation, default = parameter.annotation, parameter.default
    if isinstance(annotation, str):
        parameter = parameter.replace(annotation=_Bare(annotation))
    # The order of a set of strings is another one in each process.
    is_made = default is attrs.NOTHING or inspect.isfunction(default) or isinstance(default, frozenset)
    return parameter.replace(default=_Bare("...")) if is_made else parameter


def _own_fields(cls: type) -> list[attrs.Attribute[Any]]:
    from ally_plugins.contract.values.events import Event

    envelope = {field.name for field in attrs.fields(Event)}
    return [field for field in attrs.fields(cls) if field.name not in envelope]


def _type(annotation: Any) -> str:
    text = annotation if isinstance(annotation, str) else getattr(annotation, "__name__", str(annotation))
    return text.replace("|", "\\|")


PAGES: dict[str, Callable[[], str]] = {
    "coding agents": coding_agents,
    **{f"agent {name}": partial(agent_page, name) for name in AGENTS},
    **{f"run {name}": partial(agent_run, name) for name in AGENTS},
    "observe hooks": lambda: hooks("observe"),
    "gate hooks": lambda: hooks("gate"),
    "transform hooks": lambda: hooks("transform"),
    "lifecycle hooks": lambda: hooks("lifecycle"),
    "capability hooks": lambda: hooks("capability"),
    "events": events,
    "errors": errors,
    "limits": limits,
    "serves": serves,
    "threats": threats,
    "commands": commands,
    "messages of the host": lambda: messages("host"),
    "messages of a daemon": lambda: messages("plugin"),
    "messages of both": lambda: messages("both"),
    "wire errors": wire_errors,
    "api": api,
    "testing": testing,
}


def filled(source: str) -> str:
    """Return a page's source with every place filled anew. Raises KeyError for a name that nobody knows."""
    return PLACE.sub(lambda place: _written(place["name"]), source)


def _written(name: str) -> str:
    text = "\n".join(line.rstrip() for line in PAGES[name]().strip().splitlines())
    return f"<!-- generated: {name} -->\n\n{text}\n\n<!-- end of {name} -->"


def pages() -> list[Path]:
    """Return each page that has a place to fill."""
    return [path for path in sorted(FOLDER.rglob("*.md")) if PLACE.search(path.read_text("utf-8"))]


if __name__ == "__main__":
    for page in pages():
        page.write_text(filled(page.read_text("utf-8")), "utf-8")
