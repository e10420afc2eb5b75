"""For authors of host adapters: the checks that an adapter for an agent framework should pass, and their needs.

The checks know no framework. An author gives a driver: how to make an agent with a scripted model and a few tools, how
to run a turn of it, and what its history holds.
"""

from __future__ import annotations
