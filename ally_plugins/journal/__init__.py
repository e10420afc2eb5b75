"""The journal: one SQLite file with messages, events, decisions and the audit chain.

What is accepted is on disk. Which records are written, and that they hold no secret, is the caller's business.
"""
