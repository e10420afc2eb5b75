"""Durable subscriptions: events from the journal, from where their plugin last acknowledged.

`feeds` has those of one host, `feed` is one of them, `inline` and `process` what differs by placement; `places` knows
where in the journal an event is. What a lane still carries itself is left to `runtime.lanes.tables`.
"""
