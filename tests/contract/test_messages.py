"""What messages say of themselves."""

from __future__ import annotations

from ally_plugins import Message
from ally_plugins.contract.values.conversation import plugin_metadata


def test_a_plugins_message_is_marked_as_such_towards_the_model() -> None:
    message = Message(role="user", content="stop", metadata=plugin_metadata("loop-guard", ("loop-guard",)))
    assert message.text_for_model == "[plugin loop-guard] stop"


def test_a_persons_message_is_what_the_person_said() -> None:
    assert Message(role="user", content="[plugin x] stop").text_for_model == "[plugin x] stop"


def test_a_plugin_cannot_say_that_it_is_somebody_else() -> None:
    given = {"sourcePlugin": "person", "isPluginGenerated": False, "origin": [], "ticket": 7}
    metadata = plugin_metadata("loop-guard", ("a", "loop-guard"), given)
    assert metadata == {
        "sourcePlugin": "loop-guard",
        "isPluginGenerated": True,
        "origin": ("a", "loop-guard"),
        "ticket": 7,
    }
