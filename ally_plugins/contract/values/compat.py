"""What newer Pythons have and 3.11 has not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

__all__ = ["override"]

if TYPE_CHECKING:
    from typing_extensions import override
elif sys.version_info >= (3, 12):
    from typing import override
else:

    def override(method: Any) -> Any:
        """Mark a method as overriding one of a base class; only type checkers look."""
        return method
