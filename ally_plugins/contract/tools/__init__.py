"""What a plugin offers to be called: decorators, signatures, and types as JSON schemas.

Checking a call's arguments is left to `policy`.
"""
