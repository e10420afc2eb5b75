from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ally_plugins.policy.activation import Activations, Tag, find_tags

PLUGINS = ("monitor", "monitor-2", "a", "x_1", "cpp")


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("", []),
        ("+monitor", ["+monitor"]),
        ("please +monitor now", ["+monitor"]),
        ("-monitor", ["-monitor"]),
        ("+monitor -a +x_1", ["+monitor", "-a", "+x_1"]),
        ("+monitor\n-monitor", ["+monitor", "-monitor"]),
        ("+monitor-2", ["+monitor-2"]),
        ("use +monitor, then -a.", ["+monitor", "-a"]),
        ("(really +monitor)", ["+monitor"]),
        ("is it +monitor?", ["+monitor"]),
        ("+unknown", []),
        ("+Monitor", []),
        ("+ monitor", []),
        ("++monitor", []),
        ("--monitor", []),
        ("+-monitor", []),
        ("1+monitor", []),
        ("x-monitor", []),
        ("c+cpp", []),
        ("+monitor.py", []),
        ("+monitor-3", []),
        ("+monitors", []),
        ("+monitor/x", []),
        ("+monitor=1", []),
        ("+monitorü", []),
        ("(+monitor)", []),
        ("a + b - a", []),
        ("\u00a0+monitor\u2003", ["+monitor"]),
    ],
)
def test_a_tag_is_a_sign_and_a_whole_known_name(text: str, tags: list[str]) -> None:
    assert [("+" if tag.is_on else "-") + tag.plugin for tag in find_tags(text, PLUGINS)] == tags


@given(st.text(alphabet=st.sampled_from("+- \na.monitor_2"), max_size=60))
def test_no_text_is_too_strange_and_only_known_names_come_out(text: str) -> None:
    assert {tag.plugin for tag in find_tags(text, PLUGINS)} <= set(PLUGINS)


def test_a_very_long_message_is_read_in_linear_time() -> None:
    assert find_tags("+" * 200_000 + "a" * 200_000 + "." * 200_000, PLUGINS) == ()
    assert find_tags(("+monitor" + "." * 50) * 4_000, PLUGINS) == ()


def test_tagged_plugins_begin_inactive_and_the_others_active() -> None:
    session = Activations({"monitor": "tagged", "a": "always"})
    assert session.active == ("a",)
    assert session.is_active("of-another-kind")


def test_a_tag_turns_on_and_off_and_the_last_one_holds() -> None:
    session = Activations({"monitor": "tagged", "a": "always"})
    assert session.read_message("hello +monitor") == (Tag("monitor", is_on=True),)
    assert session.is_active("monitor")
    assert session.read_message("+monitor again") == ()
    session.read_message("no: +monitor -monitor")
    assert not session.is_active("monitor")
    session.read_message("-a")
    assert not session.active
    session.read_message("+a")
    assert session.active == ("a",)


def test_sessions_do_not_share_what_was_said() -> None:
    one, two = (Activations({"monitor": "tagged"}) for _ in range(2))
    one.read_message("+monitor")
    assert not two.is_active("monitor")


def test_what_was_said_is_kept_with_the_session() -> None:
    before = Activations({"monitor": "tagged", "a": "always"})
    before.read_message("+monitor -a")
    after = Activations({"monitor": "tagged", "a": "always"})
    after.restore(before.to_data())
    assert after.active == ("monitor",)
    after.restore({"monitor": "yes", "a": 1})
    assert after.active == ("monitor",)


def test_a_plugin_that_is_installed_later_has_what_was_said_of_it() -> None:
    session = Activations({})
    session.restore({"monitor": True})
    session.modes = {"monitor": "tagged"}
    assert session.is_active("monitor")
