"""A site directory with distributions in it, as an installer would leave them."""

from __future__ import annotations

import ctypes  # noqa: F401  # before a site hides where it is installed
import importlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import importlib_metadata  # noqa: F401  # before a site hides where it is installed
import jsonschema.validators  # noqa: F401  # likewise
import packaging.specifiers  # noqa: F401  # likewise
import pytest
import tomlkit  # noqa: F401  # likewise

from ally_plugins.catalog.home.folder import Home
from tests.kit.sites import Site

if TYPE_CHECKING:
    from collections.abc import Iterator

importlib.import_module("zipp")  # likewise: importlib_metadata looks into zips with it


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    """Give an empty site that is all there is on the path beside the standard library; tests may change the path."""
    path, entries = sys.path, list(sys.path)
    made = Site(tmp_path / "site")
    sys.path = [str(made.path), *standard_library()]
    importlib.invalidate_caches()
    yield made
    sys.path = path
    sys.path[:] = entries
    importlib.invalidate_caches()


def standard_library() -> list[str]:
    return [entry for entry in sys.path if entry and "site-packages" not in entry and Path(entry, "os.py").is_file()]


@pytest.fixture
def home(home: Path, tmp_path: Path) -> Home:
    """Return a home of its own, which is not there yet; ALLY_HOME stays what every test has."""
    assert home.is_dir()
    return Home("test", tmp_path / "home")
