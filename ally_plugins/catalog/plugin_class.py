"""Importing the class that an entry point names: the first moment at which a plugin's code runs.

Only an enabled plugin is imported. What the class must look like is checked by `runtime.lanes.loading`.
"""

from __future__ import annotations

import importlib
import os
import sys
from contextlib import contextmanager, nullcontext
from functools import reduce
from typing import TYPE_CHECKING, Any

from ally_plugins.contract.values.errors import PluginLoadError
from ally_plugins.contract.values.raised import describe_raised
from ally_plugins.contract.wording import describe

if TYPE_CHECKING:
    from collections.abc import Generator

    from .decide.record import PluginRecord

__all__ = ["load_class"]


def load_class(record: PluginRecord) -> Any:
    """Import the plugin's module and return what its entry point names, or what its source builds it with.

    Raises PluginLoadError for everything that the import raises, `SystemExit` and syntax errors among it; only
    `KeyboardInterrupt` passes, since it is the person's. Runs the plugin's module code in the calling thread.
    """
    if record.found is not None and record.found.plugin is not None:
        return record.found.plugin
    module_name, _, attribute = record.entry_point.partition(":")
    # The extras of an entry point (`MODULE:CLASS [extra]`) are for installers: there is nothing to import in them.
    module_name, attribute = module_name.strip(), attribute.partition("[")[0].strip()
    if not module_name or not attribute:
        raise _failed(record, f"{describe(record.entry_point)} is not of the form MODULE:CLASS")
    try:
        are_files_agreed = record.config.consent == "files" or (record.found is not None and bool(record.found.files))
        with _sources_only() if are_files_agreed else nullcontext():
            module = importlib.import_module(module_name)
            # Within, since a module's own `__getattr__` may import what the class stands in.
            return reduce(getattr, attribute.split("."), module)
    except KeyboardInterrupt:
        raise
    # SystemExit among them: a script without a `__main__` guard must not end the agent.
    except BaseException as error:
        raise _failed(record, describe_raised(error)) from error


@contextmanager
def _sources_only() -> Generator[None]:
    """Leave compiled code unread, which the hashes that were agreed to do not cover.

    For the whole interpreter meanwhile: what another thread imports is compiled, and right. What the plugin imports
    later, in its hooks, is read as usual.
    """
    # Not `sys.dont_write_bytecode`: it keeps compiled code from being written, and this from being read.
    before, sys.pycache_prefix = sys.pycache_prefix, os.devnull
    try:
        yield
    finally:
        sys.pycache_prefix = before


def _failed(record: PluginRecord, reason: str) -> PluginLoadError:
    message = f"plugin {record.name!r} cannot be imported from {record.entry_point!r}: {reason}"
    return PluginLoadError(message, plugin=record.name)
