"""What is run: it finds its own folder, since `-I` leaves the script's out of the path, and serves."""

from __future__ import annotations

import sys
from importlib import import_module

sys.path.append(__file__.rsplit("/", 2)[0])  # last, so that nothing of the runtime hides the standard library's
import_module("guardian.serving").main()
