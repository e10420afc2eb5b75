"""The fields that each agent's payloads were seen to have, by the name of the agent: others are of a newer version.

A payload with more than these is read as any other, and the operator is warned once: what the agent says there is said
to no plugin.
"""

# ruff: noqa: SIM905 - words in a text, as many as there are

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

__all__ = ["SEEN_FIELDS"]

SEEN_FIELDS: Final[Mapping[str, frozenset[str]]] = {
    "claude": frozenset(
        """
        agent_id agent_transcript_path agent_type background_tasks compact_summary context_tokens
        custom_instructions cwd delta duration_ms effort error estimated_cache_write_usd final
        hook_event_name index is_interrupt last_assistant_message message_id model permission_mode
        permission_suggestions prompt prompt_cache_likely_expired prompt_id reason
        seconds_since_last_response session_crons session_id source stop_hook_active tool_calls tool_input
        tool_name tool_response tool_use_id transcript_path trigger turn_id
        """.split()
    ),
    "codex": frozenset(
        """
        agent_id agent_transcript_path agent_type cwd hook_event_name last_assistant_message model
        permission_mode prompt reason session_id source stop_hook_active tool_input tool_name tool_response
        tool_use_id transcript_path trigger turn_id
        """.split()
    ),
    "gemini": frozenset(
        """
        cwd hook_event_name llm_request llm_response mcp_context prompt prompt_response reason session_id
        source stop_hook_active timestamp tool_input tool_name tool_response transcript_path trigger
        """.split()
    ),
    "copilot": frozenset(
        """
        agentId agentName agentType cwd error hookName hook_event_name initialPrompt parentAgentId
        permissionSuggestions prompt reason response sessionId session_id source stopReason stop_hook_active
        timestamp toolArgs toolInput toolName toolResult tool_input tool_name transcriptPath
        """.split()
    ),
    "opencode": frozenset(
        """
        directory input output
        """.split()
    ),
    "pi": frozenset(
        """
        content cwd input isError reason session_id source structuredContent text toolCallId toolName type
        """.split()
    ),
    "goose": frozenset(
        """
        event matcher_context message session_id tool_input tool_name working_dir
        """.split()
    ),
}
