"""What newer Pythons have, or do right, and 3.11 has not."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Final

__all__ = ["override", "parse_source"]

if TYPE_CHECKING:
    import ast

    from typing_extensions import override
elif sys.version_info >= (3, 12):
    from typing import override
else:

    def override(method: Any) -> Any:
        """Mark a method as overriding one of a base class; only type checkers look."""
        return method


_TRIES: Final = 20
"""How often a source is parsed that another one comes between; threads that do nothing else meet once in a thousand."""


def parse_source(source: str | bytes, name: str = "<unknown>") -> ast.Module:
    """Parse a Python source as `ast.parse` does, and raise as it does, in whichever thread.

    Python 3.11 counts the depth of all trees that are made in one place. Where the collector runs what parses as well,
    or lets another thread go on that does, one of them fails with SystemError.
    """
    import ast  # hardly any program needs it

    for _ in range(_TRIES):
        try:
            return ast.parse(source, name)
        except SystemError:
            continue
    return ast.parse(source, name)
