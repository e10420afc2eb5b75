"""What is wrong with a plugin's code as it is written: hooks, calls that nobody granted, blocking calls, schemas.

Nothing is imported and nothing run, so what a plugin makes at run time is not seen; where that matters a finding is a
warning. What a host finds when it loads the plugin is found here too, with its line, and all of it at once.
"""

from __future__ import annotations

import ast
from collections.abc import Collection, Iterable, Iterator
from typing import TYPE_CHECKING, Any, Final

from ally_plugins.contract.grants import ROLES, Grant
from ally_plugins.contract.hookspecs import HOOKS
from ally_plugins.contract.manifest import Manifest, manifest_line
from ally_plugins.contract.tools.common_names import COMMON_NAMES
from ally_plugins.contract.values.errors import AllyError, UndeclaredError
from ally_plugins.contract.wording import nearest, suggest
from ally_plugins.policy.permissions import GrantSet
from ally_plugins.runtime.lanes.loading import check_declared
from ally_plugins.runtime.processes.environment import ALLOWED

from .findings import Level, SourceFinding
from .manifest_checks import line_of
from .tool_schemas import check_schema

if TYPE_CHECKING:
    from .project import Project
    from .source_model import Call, Function, Sources

__all__ = ["check_source"]

_BLOCKING: Final = {
    "time.sleep": "await asyncio.sleep(...)",
    "input": "ask the person through ally.ask",
    "os.system": "await asyncio.create_subprocess_exec(...)",
    "subprocess.run": "await asyncio.create_subprocess_exec(...)",
    "subprocess.call": "await asyncio.create_subprocess_exec(...)",
    "subprocess.check_call": "await asyncio.create_subprocess_exec(...)",
    "subprocess.check_output": "await asyncio.create_subprocess_exec(...)",
    "urllib.request.urlopen": "await asyncio.to_thread(...)",
    "socket.create_connection": "await asyncio.open_connection(...)",
    "sqlite3.connect": "await asyncio.to_thread(...)",
}
_BLOCKING_MODULES: Final = {"requests": "an asynchronous client, or await asyncio.to_thread(...)"}
_HTTPX: Final = frozenset(f"httpx.{name}" for name in ("get", "post", "put", "patch", "delete", "head", "request"))
_OUTBOUND: Final = {
    "add_message": "add_message", "emit_event": "emit_event", "get_context": "get_context", "ask": "ask",
    "start_task": "tasks", "register_tool": "tools", "register_action": "actions", "request_action": "request_action",
}  # fmt: skip
_NETWORK: Final = ("socket.", "urllib.request.", "http.client.", "requests.", "httpx.", "aiohttp.", "websockets.")
_NETWORK_CALLS: Final = frozenset({"asyncio.open_connection", "asyncio.start_server"})
_RUN: Final = ("subprocess.",)
_RUN_CALLS: Final = frozenset(
    {"os.system", "os.popen", "asyncio.create_subprocess_exec", "asyncio.create_subprocess_shell"}
)
_PROTECTIONS: Final = ("ally_gate_", "ally_transform_")


def check_source(
    project: Project, manifest: Manifest | None, sources: Sources, known_tools: Collection[str]
) -> Iterator[SourceFinding]:
    """Yield what is wrong with a plugin's sources; without a manifest, what can be said all the same."""
    yield from sources.findings
    yield from _blocking(sources)
    yield from _own_names(sources, known_tools)
    if project.class_name:
        if sources.plugin is None and not sources.findings:
            yield _no_class(project, sources)
        yield from _hooks(project, manifest, sources)
        yield from _schemas(sources)
    if manifest is not None and sources.trees:
        text = project.manifest_bytes().decode("utf-8", "replace")
        yield from _undeclared(manifest, sources)
        if not sources.findings:  # else what asks for a permission may stand in the file that cannot be read
            yield from _unused(project, manifest, sources, text)
        yield from _settings(project, manifest, sources, text)


def _no_class(project: Project, sources: Sources) -> SourceFinding:
    text = f"the entry point names the class {project.class_name!r}, which {project.module!r} does not have"
    where = str(project.declared_in or project.code or project.root)
    return SourceFinding(where, 1, "entry-point", text, suggest(project.class_name, list(sources.classes)))


# --- hooks ---


def _hooks(project: Project, manifest: Manifest | None, sources: Sources) -> Iterator[SourceFinding]:
    implemented: set[str] = set()
    for function in sources.methods.values():
        options = function.marks.get("hookimpl")
        if options is None:
            yield from _unmarked(function)
            continue
        hook = options.get("specname") or function.name
        implemented.add(hook)
        yield from _hook(project, manifest, function, hook, options)
    if manifest is not None and sources.plugin is not None and not _has_unknown_base(sources):
        yield from _missing(project, manifest, implemented)


def _hook(
    project: Project, manifest: Manifest | None, function: Function, hook: str, options: dict[str, Any]
) -> Iterator[SourceFinding]:
    info = HOOKS.get(hook)
    at = (str(function.file), function.line)
    if info is None:
        if not options.get("optionalhook"):
            close = nearest(hook.removeprefix("ally_"), [name.removeprefix("ally_") for name in HOOKS])
            fix = f"did you mean 'ally_{close}'?" if close else "see: ally-plugins hooks"
            yield SourceFinding(*at, "unknown-hook", f"{hook!r} is no hook, and would never be called", fix)
        return
    if info.kind == "capability":
        text = f"{hook!r} is the host's to implement"
        yield SourceFinding(*at, "unknown-hook", text, "call it through the Ally handle")
        return
    if options.get("wrapper") or options.get("hookwrapper"):
        yield SourceFinding(*at, "hook-arguments", "wrappers are not supported", "use a gate or a transform")
    if any(isinstance(node, (ast.Yield, ast.YieldFrom)) for node in _own_nodes(function.node)):
        yield SourceFinding(*at, "hook-arguments", f"{hook!r} has a yield, so that a call of it runs nothing",
                            "make it a plain def or async def")  # fmt: skip
    yield from _parameters(function, hook, info.arguments)
    if manifest is not None:
        try:
            check_declared(project.name, info, manifest)
        except UndeclaredError as error:
            text = f"it implements {hook!r}, which the manifest does not declare"
            yield SourceFinding(*at, "undeclared-hook", text, f"add to {project.manifest_path.name}: {error.line}")


def _parameters(function: Function, hook: str, allowed: tuple[str, ...]) -> Iterator[SourceFinding]:
    arguments = function.node.args
    at = (str(function.file), function.line)
    positional = [*arguments.posonlyargs, *arguments.args]
    is_static = any(isinstance(each, ast.Name) and each.id == "staticmethod" for each in function.node.decorator_list)
    names = [each.arg for each in (positional if is_static else positional[1:])]
    if arguments.defaults:
        yield SourceFinding(*at, "hook-arguments", f"a parameter of {hook!r} has a default, which nobody would fill",
                            "remove the default")  # fmt: skip
    more = [each.arg for each in arguments.kwonlyargs]
    more += [each.arg for each in (arguments.vararg, arguments.kwarg) if each is not None]
    for name in more:
        yield SourceFinding(*at, "hook-arguments", f"the parameter {name!r} of {hook!r} is no plain one",
                            f"expected {', '.join(allowed) or 'none'}")  # fmt: skip
    for name in names:
        if name not in allowed:
            text = f"{name!r} is no argument of {hook!r}"
            yield SourceFinding(*at, "hook-arguments", text, suggest(name, allowed) if allowed else "it has none")


def _unmarked(function: Function) -> Iterator[SourceFinding]:
    info = HOOKS.get(function.name)
    is_like = function.name.startswith(_PROTECTIONS) and nearest(function.name, list(HOOKS)) is not None
    if (info is not None and info.kind != "capability") or is_like:
        text = f"{function.name!r} has no @hookimpl, and would never be called"
        yield SourceFinding(str(function.file), function.line, "unmarked-hook", text, "write @hookimpl above it")


def _missing(project: Project, manifest: Manifest, implemented: set[str]) -> Iterator[SourceFinding]:
    """Yield what the manifest asks for and no hook serves: a gate that is not there looks like one that agrees."""
    file = str(project.manifest_path)
    text = project.manifest_bytes().decode("utf-8", "replace")
    requested = GrantSet(manifest.grants)
    for info in HOOKS.values():
        if info.topic is None or info.name in implemented:
            continue
        asks = requested.gates if info.kind == "gate" else requested.transforms
        if asks(info.topic):
            said = f"it asks for {info.kind}:{info.topic} and has no hook {info.name!r}; a host does not load it"
            fix = f"write @hookimpl above `async def {info.name}(self, {', '.join(info.arguments)})`, or ask for less"
            yield SourceFinding(file, line_of(text, f"permissions.{info.kind}.on"), "missing-hook", said, fix)
    events = {info.event_type: name for name, info in HOOKS.items() if info.kind == "observe"}
    for event in manifest.subscribe:
        if "ally_event" not in implemented and events.get(event) not in implemented and event != "*":
            hook = events.get(event, "ally_event")
            said = f"it subscribes to {event!r} and has no hook for it"
            yield SourceFinding(file, line_of(text, "events.subscribe"), "missing-hook", said,
                                f"write {hook!r} or 'ally_event', or subscribe to less", "warning")  # fmt: skip


def _has_unknown_base(sources: Sources) -> bool:
    """Return whether the class inherits from something outside the project, whose hooks nobody sees here."""
    assert sources.plugin is not None  # noqa: S101 - the caller has looked
    known = {*sources.classes, "object", "Generic", "Protocol", "ABC"}
    names = [
        base.attr if isinstance(base, ast.Attribute) else getattr(base, "id", "") for base in sources.plugin[1].bases
    ]
    return any(name and name not in known for name in names)


def _own_nodes(node: ast.AST) -> Iterator[ast.AST]:
    """Yield what stands in a function itself, without the functions within."""
    stack = list(ast.iter_child_nodes(node))
    while stack:
        each = stack.pop()
        if not isinstance(each, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ClassDef)):
            yield each
            stack += ast.iter_child_nodes(each)


# --- what holds up the loop ---


def _blocking(sources: Sources) -> Iterator[SourceFinding]:
    for call in sources.calls:
        if not call.is_in_async:
            continue
        fix = _BLOCKING.get(call.name) or _BLOCKING_MODULES.get(call.name.partition(".")[0])
        if call.name in _HTTPX:
            fix = "httpx.AsyncClient"
        if fix is None and ".blocking." in f".{call.name}." and "ally" in call.name:
            fix = "await the call of `ally` itself; `ally.blocking` is for plain functions"
        if fix is not None:
            text = f"{call.name} in a coroutine holds up the loop, and with it the agent and all other plugins"
            yield SourceFinding(str(call.file), call.node.lineno, "blocking-call", text, f"use {fix}")


# --- permissions ---


def _undeclared(manifest: Manifest, sources: Sources) -> Iterator[SourceFinding]:
    """Yield the calls that nothing in the manifest asks for: they are refused, or fail in the sandbox."""
    requested = GrantSet(manifest.grants)
    for call, grant in _used(sources):
        if grant is None:
            continue
        topics = [each.topic for each in manifest.grants if each.kind == grant.kind]
        if topics and (not grant.topic or grant.topic in topics):
            continue
        is_beside = grant.kind in ("network", "run", "env")
        text = f"{call.name} needs {grant.text!r}, which the manifest does not ask for"
        text += "; in the sandbox it fails" if is_beside else "; it is refused"
        # Of a program that is computed only its author knows the name.
        line = manifest_line(grant if grant.topic or grant.kind != "run" else Grant("run", "PROGRAM"))
        fix, level = f"add: {line}", _level(is_beside)
        yield SourceFinding(str(call.file), call.node.lineno, "undeclared-permission", text, fix, level)
    for function in sources.methods.values():
        for kind in ("tool", "action"):
            if kind in function.marks and not requested.may(f"{kind}s"):
                text = f"@{kind} offers {function.name!r}, which the manifest does not declare"
                yield SourceFinding(str(function.file), function.line, "undeclared-permission", text,
                                    f"add: {manifest_line(Grant(f'{kind}s'))}")  # fmt: skip


def _level(is_warning: bool) -> Level:  # noqa: FBT001 - the only question
    return "warning" if is_warning else "error"


def _used(sources: Sources) -> Iterator[tuple[Call, Grant | None]]:
    """Yield the calls that need a grant, each with the least of it that can be seen; None for what cannot be."""
    for call in sources.calls:
        receiver, _, method = call.name.rpartition(".")
        if method in _OUTBOUND and "ally" in {part.lstrip("_") for part in receiver.split(".")[-2:]}:
            yield call, _outbound_grant(call, _OUTBOUND[method])
        elif call.name.startswith(_NETWORK) or call.name in _NETWORK_CALLS:
            yield call, Grant("network")
        elif call.name.startswith(_RUN) or call.name in _RUN_CALLS:
            yield call, Grant("run", _program(call))
        elif (
            call.name in ("os.getenv", "os.environ.get")
            and isinstance(name := _first(call), str)
            and not (name in ALLOWED or name.startswith(("ALLY_", "LC_")))
        ):  # what each process is given, or the host sets
            yield call, Grant("env", name)


def _outbound_grant(call: Call, kind: str) -> Grant | None:
    first = _first(call)
    if kind == "add_message":
        return Grant(kind, first) if first in ROLES else Grant(kind, "user") if first is None else None
    if kind == "request_action":
        return Grant(kind, first) if isinstance(first, str) else None
    if kind == "get_context":
        return Grant(kind, first[0]) if isinstance(first, (list, tuple)) and first else Grant(kind, "messages")
    return Grant(kind)


def _program(call: Call) -> str:
    first = _first(call)
    if isinstance(first, (list, tuple)):
        first = first[0] if first else ""
    words = first.split() if isinstance(first, str) else []
    return words[0] if words else ""  # computed: any


def _first(call: Call) -> Any:
    """Return the first argument where it is a literal, None otherwise."""
    if not call.node.args:
        return None
    try:
        return ast.literal_eval(call.node.args[0])
    except (ValueError, TypeError, SyntaxError, MemoryError, RecursionError):
        return None


def _unused(project: Project, manifest: Manifest, sources: Sources, text: str) -> Iterator[SourceFinding]:
    """Yield what is asked for and nothing uses; a warning, since code may do it in a way that nobody sees here."""
    if not project.class_name:
        return
    names = {call.name.rpartition(".")[2] for call in sources.calls}
    marks = {mark for function in sources.methods.values() for mark in function.marks}
    used = {_OUTBOUND[name] for name in names if name in _OUTBOUND} | {f"{mark}s" for mark in marks}
    used |= {grant.kind for _, grant in _used(sources) if grant is not None}
    # What a gate is shown of the context are the parts that it was granted.
    if any(_takes_context(function) for function in sources.methods.values()):
        used.add("get_context")
    # An action that the agent may call is one of its tools, too.
    if any(function.marks.get("action", {}).get("agent") for function in sources.methods.values()):
        used.add("tools")
    for kind in sorted({grant.kind for grant in manifest.grants}.intersection(_OUTBOUND.values()) - used):
        said = f"it asks for {kind!r}, and nothing in its code uses that"
        yield SourceFinding(str(project.manifest_path), line_of(text, f"permissions.{kind}"), "unused-permission", said,
                            "ask for less: an operator has to agree to each", "warning")  # fmt: skip
    yield from _unused_roles(project, manifest, sources, text)


def _takes_context(function: Function) -> bool:
    return "hookimpl" in function.marks and "context" in {each.arg for each in function.node.args.args}


def _unused_roles(project: Project, manifest: Manifest, sources: Sources, text: str) -> Iterator[SourceFinding]:
    roles = [_first(call) for call in sources.calls if call.name.endswith(".add_message")]
    if not roles or None in roles:  # a role that is computed may be any
        return
    asked = {grant.topic for grant in manifest.grants if grant.kind == "add_message" and grant.topic in ROLES}
    for role in sorted(asked - set(roles)):
        said = f"it asks to speak as {role!r}, and never does"
        yield SourceFinding(str(project.manifest_path), line_of(text, "permissions.add_message.roles"),
                            "unused-permission", said, f"take {role!r} out of roles", "warning")  # fmt: skip


# --- tools and settings ---


def _schemas(sources: Sources) -> Iterator[SourceFinding]:
    for function in sources.methods.values():
        for kind in ("tool", "action"):
            if kind in function.marks:
                yield from _offer(function, kind, function.marks[kind])


def _offer(function: Function, kind: str, given: dict[str, Any]) -> Iterator[SourceFinding]:
    at = (str(function.file), function.line)
    if not given.get("description") and ast.get_docstring(function.node) is None:
        text = f"the {kind} {function.name!r} has no description, by which the model would know it"
        yield SourceFinding(*at, "schema", text, "write a docstring")
    if isinstance(given.get("schema"), dict):
        try:
            check_schema(str(given.get("name") or function.name), given["schema"])
        except AllyError as error:
            yield SourceFinding(*at, "schema", str(error), "mend the schema, or leave it out for one of the signature")
    elif "schema" not in given:
        for parameter in [*function.node.args.args[1:], *function.node.args.kwonlyargs]:
            if parameter.annotation is None:
                text = f"the parameter {parameter.arg!r} of the {kind} {function.name!r} has no annotation"
                yield SourceFinding(*at, "schema", text, "give it a type, such as str")


def _settings(project: Project, manifest: Manifest, sources: Sources, text: str) -> Iterator[SourceFinding]:
    read: set[str] = set()
    is_whole = False
    for file, tree in sources.trees:
        for node in ast.walk(tree):
            name = _setting_of(node)
            if name is None:
                continue
            if not isinstance(name, str):
                is_whole = True
                continue
            read.add(name)
            if name not in manifest.settings:
                said = f"there is no setting {name!r} in the manifest"
                yield SourceFinding(str(file), getattr(node, "lineno", 0), "settings", said,
                                    suggest(name, list(manifest.settings)))  # fmt: skip
    if not is_whole and project.class_name:
        for name in sorted(set(manifest.settings) - read):
            said = f"the setting {name!r} is never read"
            line = line_of(text, f"settings.{name}")
            yield SourceFinding(str(project.manifest_path), line, "settings", said, "remove it, or use it", "warning")


def _setting_of(node: ast.AST) -> Any:
    """Return the name of the setting that an expression reads; False for all of them at once, None for no such."""
    if isinstance(node, ast.Subscript) and _is_settings(node.value):
        return node.slice.value if isinstance(node.slice, ast.Constant) else False
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_settings(node.func.value):
        first = node.args[0] if node.args else None
        return first.value if node.func.attr == "get" and isinstance(first, ast.Constant) else False
    values: Iterable[ast.AST] = ()
    if isinstance(node, ast.Assign):
        values = (node.value,)
    elif isinstance(node, ast.Call):
        values = node.args
    return False if any(_is_settings(value) for value in values) else None


def _is_settings(node: ast.AST) -> bool:
    """Return whether an expression is `ally.settings`, with whatever before it."""
    if not (isinstance(node, ast.Attribute) and node.attr == "settings"):
        return False
    owner = node.value
    return str(getattr(owner, "attr", None) or getattr(owner, "id", "")).lstrip("_") == "ally"


def _own_names(sources: Sources, known: Collection[str]) -> Iterator[SourceFinding]:
    """Yield comparisons of an agent's own name of a tool with a common one: `Bash` is not `bash`."""
    for file, tree in sources.trees:
        for node in ast.walk(tree):
            if not isinstance(node, ast.Compare) or not isinstance(node.left, ast.Attribute):
                continue
            attribute = node.left.attr
            if attribute not in ("tool_name", "common_name"):
                continue
            for name in _compared(node):
                yield from _name_problem(str(file), node.lineno, attribute, name, known)


def _compared(node: ast.Compare) -> Iterator[str]:
    for each in node.comparators:
        parts = each.elts if isinstance(each, (ast.Tuple, ast.List, ast.Set)) else [each]
        for part in parts:
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.value


def _name_problem(file: str, line: int, attribute: str, name: str, known: Collection[str]) -> Iterator[SourceFinding]:
    if attribute == "common_name" and name not in COMMON_NAMES:
        text = f"no tool has the common name {name!r}"
        yield SourceFinding(file, line, "unknown-tool", text, suggest(name, sorted(COMMON_NAMES)))
    elif attribute == "tool_name" and name in COMMON_NAMES:
        others = sorted({each for each in known if each.lower() == name and each != name})
        elsewhere = ", ".join(map(repr, others)) or "another one"
        text = f"tool_name is the agent's own name; {name!r} is {elsewhere} elsewhere"
        fix = f"compare (call.common_name or call.tool_name) == {name!r}"
        yield SourceFinding(file, line, "unknown-tool", text, fix, "warning")
