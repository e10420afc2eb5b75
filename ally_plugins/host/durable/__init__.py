"""Durable subscriptions: events from the journal, from where their plugin last acknowledged.

`feeds` has those of one host, `feed` is one of them, `inline` and `process` what differs by placement; `offsets` are
positions in the journal, `bookmarks` where each begins. Those of a plugin that is placed `shared` are sent by `fleet`,
from the same bookmark. Which events a lane still carries is decided in `runtime.lanes.tables`.
"""
