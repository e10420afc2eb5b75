"""What every adapter for an agent framework needs and no framework has: turns, permission, usage, compaction, tools.

It knows the host and its sessions, and no framework; an adapter (`ally_plugins.adapters`) translates between the two.
"""

from __future__ import annotations

from .kit import AgentKit
from .live import LiveSession
from .permission import Approver, PermissionQuestion
from .previews import file_preview
from .work import AgentWork

__all__ = ["AgentKit", "AgentWork", "Approver", "LiveSession", "PermissionQuestion", "file_preview"]
