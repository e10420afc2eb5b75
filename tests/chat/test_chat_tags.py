"""A plugin of Code-Ally's in a chat: `+name` and `-name` turn it on and off, and a resumed session remembers."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.registry import Registry

if TYPE_CHECKING:
    from .conftest import Person

CODE = """
import json, sys
json.dump({"success": True, "greeting": "hello " + json.load(sys.stdin)["who"]}, sys.stdout)
"""


@pytest.fixture
def tagged(person: Person) -> Person:
    """Return a person who has agreed to a plugin that is active only where its name is said."""
    folder = person.home.plugins_dir / "greeter"
    folder.mkdir(parents=True, mode=0o700)
    tool = {
        "name": "greet",
        "description": "greets somebody",
        "type": "executable",
        "command": "python3",
        "args": ["-I", "-S", "greet.py"],
        "schema": {"type": "object", "properties": {"who": {"type": "string"}}, "required": ["who"]},
    }
    about = {
        "name": "greeter",
        "version": "1.0.0",
        "description": "greets",
        "activationMode": "tagged",
        "tools": [tool],
    }
    (folder / "plugin.json").write_text(json.dumps(about))
    (folder / "greet.py").write_text(CODE)
    registry = Registry(person.home)
    registry.enable(registry.plan("greeter"), by="test")
    return person


@pytest.mark.slow
def test_a_tagged_plugin_is_on_where_its_name_is_said_and_stays_so_in_a_resumed_session(tagged: Person) -> None:
    call = 'call greet {"who": "you"}'
    shown = tagged.chat("/plugins", call, "+greeter", call)
    before, after = shown.split("> +greeter")
    assert "off, +greeter turns it on" in before
    assert "hello you" not in before
    assert "greeter is on in this session" in after
    assert "hello you" in after
    resumed = tagged.chat(call, "-greeter", call, args=("--continue",))
    on, off = resumed.rsplit("> -greeter", 1)
    assert "hello you" in on.rpartition("> call")[2]
    assert "greeter is off in this session" in off
    assert "hello you" not in off
    assert "hello you" not in tagged.chat(call)  # another session
