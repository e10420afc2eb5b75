"""The reference has an entry for every hook, event, key, command and exported name, and each says something."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
import tomllib
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import pytest
from packaging.version import Version

import ally_plugins
from ally_plugins.contract.values.compat import parse_source

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

DOCS = Path(__file__).parents[2] / "docs"


def _load_pages() -> ModuleType:
    spec = importlib.util.spec_from_file_location("reference_pages", DOCS / "_ext" / "reference_pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pages = _load_pages()


def _page(name: str) -> str:
    return (DOCS / "reference" / name).read_text(encoding="utf-8")


@pytest.mark.parametrize("page", pages.pages(), ids=lambda page: page.relative_to(DOCS).as_posix())
def test_a_page_has_what_the_code_says_of_itself_now(page: Path) -> None:
    if page.name == "commands.md" and Version(version("click")) < Version("8.2"):
        pytest.skip("click before 8.2 writes the line of usage otherwise")
    text = page.read_text(encoding="utf-8")
    assert pages.filled(text) == text, "write it anew: python docs/_ext/reference_pages.py"


def test_a_place_of_a_page_is_filled_once_and_the_words_around_it_stay() -> None:
    empty = "before\n\n<!-- generated: limits -->\n\nafter\n"
    once = pages.filled(empty)
    assert once.startswith("before\n\n<!-- generated: limits -->\n\n| key |")
    assert once.endswith("|\n\n<!-- end of limits -->\n\nafter\n")
    assert pages.filled(once) == once


def test_a_place_that_nobody_can_fill_is_an_error() -> None:
    with pytest.raises(KeyError, match="limitz"):
        pages.filled("<!-- generated: limitz -->\n")


@pytest.mark.parametrize("drawn", sorted(DOCS.rglob("*.dot")), ids=lambda path: path.stem)
def test_a_picture_was_drawn_of_the_text_beside_it(drawn: Path) -> None:
    from hashlib import sha256
    from xml.etree import ElementTree as ET

    svg = drawn.with_suffix(".svg").read_text(encoding="utf-8")
    assert svg.startswith(f"<!-- drawn of sha256 {sha256(drawn.read_bytes()).hexdigest()} -->"), (
        "python docs/_ext/draw.py"
    )
    words = "".join(ET.fromstring(svg).itertext())  # noqa: S314 - our own file
    missing = [
        word
        for label in re.findall(r'label="([^"]+)"', drawn.read_text("utf-8"))
        for word in label.split("\\n")
        if word not in words
    ]
    assert missing == []


def _entries(page: str) -> dict[str, str]:
    """Return what stands below each heading that is a name, without code and tables: the words."""
    parts = re.split(r"^### `(.+?)`$", page, flags=re.MULTILINE)
    return {
        name: re.sub(r"```.*?```|^\|.*$|^Hook: .*$|^#.*$", "", body, flags=re.MULTILINE | re.DOTALL).strip()
        for name, body in zip(parts[1::2], parts[2::2], strict=True)
    }


def _without_words(entries: dict[str, str], names: set[str]) -> list[str]:
    return sorted(name for name in names if not entries.get(name))


def test_every_hook_has_an_entry_with_words() -> None:
    from ally_plugins.contract.hookspecs import HOOKS

    assert _without_words(_entries(_page("hooks.md")), set(HOOKS)) == []


def test_every_event_has_an_entry_with_words() -> None:
    from ally_plugins.contract.values.events import EVENT_TYPES

    assert _without_words(_entries(_page("events.md")), set(EVENT_TYPES)) == []


def test_every_field_of_the_envelope_has_its_row() -> None:
    from ally_plugins.contract.values.events import Event

    page = _page("events.md")
    missing = [field.name for field in attrs.fields(Event) if f"`{field.name}`" not in page]
    assert missing == []


def test_every_error_has_an_entry_with_words() -> None:
    from ally_plugins.contract.values import errors

    assert _without_words(_entries(_page("errors.md")), set(errors.__all__)) == []


def test_every_exported_name_has_an_entry_with_words() -> None:
    from ally_plugins import testing

    names = {*ally_plugins.__all__, *(f"testing.{name}" for name in testing.__all__)}
    assert _without_words(_entries(_page("api.md")), names) == []


def test_the_table_of_hosts_has_a_row_for_each_adapter_with_what_it_serves() -> None:
    from ally_plugins import adapters

    table = pages.serves()
    assert table in _page("hosts.md")
    folders = {path.parent.name for path in Path(adapters.__path__[0]).glob("*/__init__.py")} - {"kit", "coding"}
    served = pages.served_by_adapters()
    assert {name.replace("-", "_") for name in served} == folders
    for name, serves in served.items():
        (row,) = (line for line in table.splitlines() if line.startswith(f"| {name} |"))
        assert all(f"`{topic}`" in row for topic in serves.gates | serves.transforms)


def test_every_command_has_a_help_text_with_an_example() -> None:
    page = _page("commands.md")
    for path, command in pages.command_tree():
        help_text = command.help or ""
        assert f"### `{path}`" in page
        assert help_text, f"{path} has no help text"
        if not getattr(command, "commands", None):
            assert re.search(rf"{re.escape(path)}\b", help_text), f"the help of {path!r} shows no example"


def test_every_option_of_a_command_says_what_it_does() -> None:
    silent = [
        f"{path} {'/'.join(parameter.opts)}"
        for path, command in pages.command_tree()
        for parameter in command.params
        if parameter.param_type_name == "option" and not getattr(parameter, "help", None)
    ]
    assert silent == []


def test_the_example_manifest_uses_every_key_and_the_page_explains_each() -> None:
    from ally_plugins.contract.manifest import FILE, Manifest

    example, explained = _example("manifest.md")
    Manifest.from_text(example)
    keys = _keys(FILE.schema(is_strict=True))
    assert sorted(keys - _paths(tomllib.loads(example))) == []
    assert _unexplained(keys, explained) == []


def test_the_example_configuration_uses_every_key_and_the_page_explains_each() -> None:
    from ally_plugins.catalog.home.config import FILE, parse_config

    example, explained = _example("config.md")
    parse_config(example, "config.toml")
    keys = {key for key in _keys(FILE.schema(is_strict=True)) if ".ally_" not in key}
    tables = re.compile(r"(.*\.)?(deadlines|limits)\.\w+")
    assert sorted(key for key in keys - _paths(tomllib.loads(example)) if not tables.fullmatch(key)) == []
    assert _unexplained(keys, explained) == []


def test_the_example_of_a_machines_policy_uses_every_key_and_the_page_explains_each() -> None:
    from ally_plugins.catalog.home.machine_policy import FILE

    page = _page("config.md")
    _, example = _toml_blocks(page)
    # Not parsed: a digest is too long for a page.
    keys = set(FILE.schema(is_strict=True)["properties"])
    assert keys == set(tomllib.loads(example))
    assert _unexplained(keys, page.partition("## The policy of a machine")[2]) == []


def _example(page: str) -> tuple[str, str]:
    """Return the first TOML block of a page, and what follows its first section."""
    text = _page(page)
    return _toml_blocks(text)[0], text.partition("\n## ")[2]


def _toml_blocks(text: str) -> list[str]:
    return re.findall(r"```toml\n(.*?)```", text, flags=re.DOTALL)


def _unexplained(keys: set[str], text: str) -> list[str]:
    return sorted(key for key in keys if f"`{key.rpartition('.')[2]}`" not in text and not key.endswith(".NAME"))


def _general(path: str) -> str:
    """Replace the names that authors and operators choose."""
    return re.sub(r"(^|\.)(settings|plugins|indexes)\.[^.]+", r"\1\2.NAME", path)


def _keys(schema: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the general path of every key that a document may have."""
    named = schema.get("additionalProperties")
    inner = {**schema.get("properties", {}), **({"NAME": named} if named else {})}
    found = {f"{prefix}{key}" for key in inner}
    return found.union(*(_keys(each, f"{prefix}{key}.") for key, each in inner.items()))


def _paths(table: dict[str, Any], prefix: str = "") -> set[str]:
    """Return the general path of every key in a document."""
    found = set()
    for key, value in table.items():
        found.add(_general(f"{prefix}{key}"))
        if isinstance(value, dict):
            found |= _paths(value, f"{prefix}{key}.")
    return found


def test_every_heading_of_troubleshooting_is_in_a_text_that_the_code_can_print() -> None:
    page = (DOCS / "troubleshooting.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.+)$", page, flags=re.MULTILINE)
    assert headings
    package = Path(ally_plugins.__file__).parent
    sources = [path.read_text(encoding="utf-8") for path in sorted(package.rglob("*.py"))]
    silent = [
        heading
        for heading in headings
        if not any(heading in text for source in sources if heading in source for text in _printable(source))
    ]
    assert silent == []


def _printable(source: str) -> Iterator[str]:
    """Yield the texts of a module but for its docstrings; comments are none."""
    module = parse_source(source)
    # A text that is a statement of its own explains something, and is never printed.
    explaining = {id(each.value) for each in ast.walk(module) if isinstance(each, ast.Expr)}
    for node in ast.walk(module):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explaining:
            yield node.value
