"""What the process of nearly every plugin needs, imported for all of them by the process that they are forked from.

Nothing here may begin a thread, open a descriptor that stays, or keep what must differ between two plugins.
"""

from __future__ import annotations

from importlib import import_module
from typing import Final

_MODULES: Final = (
    "asyncio",
    "ally_plugins.contract.tools.declared",
    "ally_plugins.contract.values.conversation",
    "ally_plugins.contract.values.masking",
    "ally_plugins.contract.values.verdicts",
    "ally_plugins.daemon.process",
    "ally_plugins.daemon.running",
    "ally_plugins.wire.offers",
)

for _name in _MODULES:
    import_module(_name)
