"""Directories on `sys.path` with distributions in them, as installers leave them."""

from __future__ import annotations

import importlib
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

CODE = "class Plugin: pass\n"

LONG_AGO = 1_600_000_000


class Site:
    """One such directory; `add` is what installing a wheel leaves there."""

    def __init__(self, path: Path) -> None:
        self.path = path
        path.mkdir(parents=True, exist_ok=True)

    def add(
        self,
        name: str,
        plugins: Mapping[str, str] | str,
        files: Mapping[str, str | bytes] | None = None,
        *,
        version: str = "1.0",
        record: bool = True,
    ) -> Path:
        """Add a distribution and return the directory of its metadata."""
        files = files or {}
        info = self.path / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        lines = plugins if isinstance(plugins, str) else "".join(f"{key} = {to}\n" for key, to in plugins.items())
        (info / "entry_points.txt").write_text(f"[console_scripts]\nx = y:z\n\n[ally.plugins]\n{lines}")
        for path, content in files.items():
            self.write(path, content)
        if record:
            rows = [f"{path},sha256={hash(content)},{len(content)}" for path, content in files.items()]
            (info / "RECORD").write_text("\n".join([*rows, f"{info.name}/RECORD,,"]))
        importlib.invalidate_caches()
        return info

    def plugin(self, name: str, manifest: str = "", *, version: str = "1.0", code: str = CODE) -> Path:
        """Add a distribution with one package of that name and one plugin in it, in the place of an earlier one."""
        package = name.replace("-", "_")
        for earlier in self.path.glob(f"{package}-*.dist-info"):
            shutil.rmtree(earlier)
        files = {f"{package}/__init__.py": code, f"{package}/ally-plugin.toml": manifest}
        return self.add(name, {name: f"{package}:Plugin"}, files, version=version)

    def write(self, path: str, content: str | bytes) -> Path:
        """Write a file below the site."""
        file = self.path / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content.encode() if isinstance(content, str) else content)
        return file

    def settle(self) -> None:
        """Make everything look as if it had been there for years."""
        for directory, _, files in os.walk(self.path):
            for file in files:
                os.utime(Path(directory, file), (LONG_AGO, LONG_AGO), follow_symlinks=False)
            os.utime(directory, (LONG_AGO, LONG_AGO))
        importlib.invalidate_caches()
