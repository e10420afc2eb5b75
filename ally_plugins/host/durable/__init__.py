"""Durable subscriptions: events from the journal, from where their plugin last acknowledged.

`feeds` has those of one host, `feed` is one of them, `inline` and `process` what differs by placement; `offsets` are
positions in the journal. Which events a lane still carries is decided in `runtime.lanes.tables`.
"""
