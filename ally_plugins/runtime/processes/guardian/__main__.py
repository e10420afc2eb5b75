"""What is run: it finds its own folder, since `-I` leaves the script's out of the path, and serves."""

from __future__ import annotations

import sys
from importlib import import_module

# Last, so that nothing there hides the standard library's. From the root, since the sandbox lies beside the processes.
sys.path.append(__file__.rsplit("/", 4)[0])
import_module("runtime.processes.guardian.serving").main()
