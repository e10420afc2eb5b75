"""A plugin that runs what its environment says, as soon as it is built; what it prints goes to stderr."""

from __future__ import annotations

import os
import sys


class Probe:
    """Needs nothing of its handle."""

    def __init__(self, ally: object) -> None:
        del ally
        exec(os.environ["CODE"], {})  # noqa: S102 - of the test's own
        sys.stdout.flush()
