"""`ally-plugins docs`: the pages of this version, without a network."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.kit.commands import run_command

if TYPE_CHECKING:
    import pytest

CHECKOUT = Path(__file__).parents[2] / "docs"
ONLY_SPHINX = {"changelog"}  # made of CHANGELOG.md when the HTML is built


def _json(*args: str, code: int = 0) -> dict[str, Any]:
    shown: dict[str, Any] = json.loads(run_command("docs", *args, "--json", code=code).stdout)
    return shown


def test_the_list_has_every_page_of_the_documentation_with_its_title() -> None:
    pages = {page["page"]: page for page in _json()["pages"]}
    written = {path.relative_to(CHECKOUT).with_suffix("").as_posix() for path in CHECKOUT.rglob("*.md")}
    assert written - ONLY_SPHINX == set(pages) - ONLY_SPHINX
    assert pages["tutorial/first-plugin"]["title"] == "A first plugin"
    assert all(page["title"] and Path(page["path"]).is_file() for page in pages.values())
    shown = run_command("docs").stdout
    assert shown.splitlines()[1].split() == ["index", "ally_plugins"]
    assert all(name in shown for name in pages)


def test_a_page_is_shown_by_its_name_or_the_last_part_of_it() -> None:
    whole = run_command("docs", "tutorial/first-plugin").stdout
    assert whole == run_command("docs", "first-plugin").stdout == run_command("docs", "first-plugin.md").stdout
    assert whole == (CHECKOUT / "tutorial" / "first-plugin.md").read_text(encoding="utf-8")
    assert _json("first-plugin")["text"] == whole


def test_a_page_is_shown_without_what_only_a_build_reads() -> None:
    assert "toctree" not in run_command("docs", "index").stdout
    assert "<!--" not in run_command("docs", "hooks").stdout
    chat = run_command("docs", "tutorial/chat").stdout
    assert "{literalinclude}" not in chat
    assert "\n> read README.md\n" in chat


def test_the_reference_is_there_with_what_is_made_of_the_code() -> None:
    assert "### `ally_gate_tool_call`" in run_command("docs", "hooks").stdout
    assert "### `ally-plugins docs`" in run_command("docs", "commands").stdout


def test_a_search_shows_the_sections_with_all_words_headings_first() -> None:
    found = _json("--search", "sandbox", "--search", "REFUSED")["found"]
    assert found[0]["heading"] == "its sandbox has refused what the grant"
    assert {each["page"] for each in found} >= {"troubleshooting", "explanation/trust"}
    shown = run_command("docs", "--search", "is in quarantine").stdout.splitlines()
    assert shown[0] == "troubleshooting  is in quarantine"
    assert shown[1].strip()


def test_a_search_that_is_cut_says_how_many_there_are_more() -> None:
    count = len(_json("--search", "plugin")["found"])
    shown = run_command("docs", "--search", "plugin").stdout
    assert shown.endswith(f"and {count - 30} more; one more --search WORD narrows it\n")


def test_a_search_that_finds_nothing_ends_with_1() -> None:
    assert _json("--search", "zxqvj", code=1) == {"found": []}
    assert "'zxqvj'" in run_command("docs", "--search", "zxqvj", code=1).stderr


def test_a_misspelt_page_is_an_error_with_the_nearest_one() -> None:
    error = _json("first-plgin", code=2)["error"]
    assert "did you mean 'first-plugin'?" in error["message"]
    assert "--search" in error["message"]


def test_no_page_outside_of_the_documentation_is_shown(tmp_path: Path) -> None:
    (tmp_path / "mine.md").write_text("# Mine\n", encoding="utf-8")
    for name in (str(tmp_path / "mine"), "../CONTRIBUTING", "tutorial/../index", "*", ""):
        assert "no page is called" in _json(name, code=2)["error"]["message"]


def test_the_path_of_a_page_or_of_all_is_printed_for_other_programs() -> None:
    page = Path(run_command("docs", "troubleshooting", "--path").stdout.strip())
    assert page.read_text(encoding="utf-8").startswith("# Troubleshooting\n")
    assert run_command("docs", "--path").stdout.strip() == str(page.parent) == _json()["folder"]


def test_a_long_page_goes_through_the_pager_of_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    from ally_plugins.cli.shell import text

    paged: list[str] = []
    monkeypatch.setattr(text, "is_terminal", lambda _name: True)
    monkeypatch.setattr("click.echo_via_pager", paged.append)
    assert run_command("docs", "hooks").stdout == ""
    assert "ally_gate_tool_call" in paged[0]
