"""What grants of files open on a disk on which somebody has laid links, and in projects that hold what is protected."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from ally_plugins.catalog.discovery.found import Found
from ally_plugins.catalog.home.folder import Home
from ally_plugins.catalog.protected_places import protected_places
from ally_plugins.contract.values.errors import CannotExecute
from ally_plugins.host.daemons.opened_files import OpenedFiles, opened_files
from ally_plugins.policy.granted_files import names_project
from ally_plugins.policy.permissions import GrantSet

if TYPE_CHECKING:
    from pathlib import Path

    from ally_plugins.policy.protected_places import ProtectedPlace


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project with a few files, in which somebody else's plugin lies too."""
    root = tmp_path / "project"
    for name in ("src", "docs/api", "plugins/other"):
        (root / name).mkdir(parents=True)
    return root


@pytest.fixture
def places(home: Path, project: Path) -> tuple[ProtectedPlace, ...]:
    return protected_places(Home("test", home), [Found(name="other", root=str(project / "plugins/other"))])


def opened(
    grants: list[str], project: Path | None, places: tuple[ProtectedPlace, ...], data: str = "/d"
) -> OpenedFiles:
    return opened_files("doc-writer", "python", GrantSet.of(grants), str(project) if project else None, data, places)


def test_grants_name_places_of_the_project_of_the_data_folder_and_of_the_machine(
    project: Path, places: tuple[ProtectedPlace, ...]
) -> None:
    grants = [
        "files:read:project",
        "files:write:project/docs/api",
        "files:read:data/cache",
        "files:read:/usr/share/dict",
    ]
    assert opened(grants, project, places) == OpenedFiles(
        ("/usr/share/dict", "/d/cache", str(project)), (str(project / "docs/api"),)
    )


def test_without_a_project_what_names_it_opens_nothing(places: tuple[ProtectedPlace, ...]) -> None:
    assert opened(["files:read:project", "files:write:project/docs"], None, places) == OpenedFiles()


@pytest.mark.parametrize("topic", ["read", "write"])
@pytest.mark.parametrize("target", ["/etc", "../outside", "/"])
def test_a_link_that_leads_out_of_the_project_opens_nothing(
    project: Path, places: tuple[ProtectedPlace, ...], topic: str, target: str
) -> None:
    (project.parent / "outside").mkdir()
    (project / "linked").symlink_to(target)
    for path in ("project/linked", "project/linked/deeper"):
        with pytest.raises(CannotExecute, match="since a link leads out, to /") as caught:
            opened([f"files:{topic}:{path}"], project, places)
        assert f"ally-plugins revoke doc-writer files:{topic}:{path}" in str(caught.value)


def test_a_project_that_has_become_a_link_since_its_session_was_opened_opens_nothing(
    project: Path, places: tuple[ProtectedPlace, ...]
) -> None:
    project.rename(project.parent / "moved")
    (project.parent / "elsewhere").mkdir()
    project.symlink_to("elsewhere")
    with pytest.raises(CannotExecute, match="since the project has become a link, to /"):
        opened(["files:read:project"], project, places)


def test_a_link_within_the_project_leads_where_it_leads(project: Path, places: tuple[ProtectedPlace, ...]) -> None:
    (project / "linked").symlink_to("src")
    assert opened(["files:read:project/linked"], project, places).read == (str(project / "src"),)


@pytest.mark.parametrize("topic", ["read", "write"])
def test_a_project_that_holds_the_home_or_lies_in_it_is_opened_to_nobody(
    home: Path, places: tuple[ProtectedPlace, ...], topic: str
) -> None:
    for root in (home, home.parent, home / "plugins"):
        with pytest.raises(CannotExecute, match="where the plugins' consent, journal and secrets are kept"):
            opened([f"files:{topic}:project"], root, places)


def test_code_that_the_host_runs_is_read_and_not_written(project: Path, places: tuple[ProtectedPlace, ...]) -> None:
    assert opened(["files:read:project"], project, places).read == (str(project),)
    assert opened(["files:write:project/docs"], project, places).write == (str(project / "docs"),)
    with pytest.raises(CannotExecute, match="the code of the plugin 'other'"):
        opened(["files:write:project"], project, places)
    with pytest.raises(CannotExecute, match="the code of the plugin 'other'"):
        opened(["files:write:project/plugins/other/__init__.py"], project, places)


def test_an_absolute_path_that_has_become_a_link_to_the_home_since_the_consent_is_not_opened(
    home: Path, project: Path, places: tuple[ProtectedPlace, ...]
) -> None:
    path = project.parent / "notes"
    path.symlink_to(home)
    with pytest.raises(CannotExecute, match="where the plugins' consent, journal and secrets are kept"):
        opened([f"files:read:{path}"], None, places)


def test_only_grants_of_the_project_call_for_a_process_of_each_project() -> None:
    assert names_project(GrantSet.of(["files:read:project/src"]))
    assert not names_project(GrantSet.of(["files:read:/srv", "files:write:data", "network", "run:git"]))
