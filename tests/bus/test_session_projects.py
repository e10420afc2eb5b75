"""Which folder a session is about."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ally_plugins import Host
from ally_plugins.contract.values.errors import HostError
from tests.kit.waiting import go

if TYPE_CHECKING:
    from pathlib import Path


def test_a_session_is_about_the_folder_that_the_host_names_or_else_its_focus(tmp_path: Path) -> None:
    root, link = tmp_path / "project", tmp_path / "link"
    root.mkdir()
    link.symlink_to(root)

    async def main() -> None:
        async with Host("test", home=None) as host:
            assert host.session("named", project=root, focus="/somewhere").project == str(root)
            assert host.session("linked", project=str(link)).project == str(root)
            assert host.session("focus", focus=str(link)).project == str(root)
            for number, focus in enumerate((None, "the parser", "src/app.py", str(root / "gone"), "/a\0b", "")):
                assert host.session(f"none-{number}", focus=focus).project is None

    go(main())


@pytest.mark.parametrize("project", ["project", "", "/no/such/folder", __file__])
def test_a_project_that_is_no_folder_opens_no_session(project: str) -> None:
    async def main() -> None:
        async with Host("test", home=None) as host:
            with pytest.raises(HostError, match="expected the absolute path of a folder"):
                host.session("s", project=project)
            assert host.session("s").project is None

    go(main())


def test_an_open_session_is_about_one_project(tmp_path: Path) -> None:
    async def main() -> None:
        async with Host("test", home=None) as host:
            session = host.session("s", project=tmp_path)
            assert host.session("s", project=tmp_path) is session
            assert host.session("s") is session
            with pytest.raises(HostError, match="is open for the project"):
                host.session("s", project=tmp_path.parent)

    go(main())
