"""The journal: one SQLite file with messages, events, decisions and the audit chain.

Accepted means on disk. What may be said in it is decided by who calls, who also keeps secrets out.
"""
