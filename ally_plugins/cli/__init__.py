"""The command line: what the operator types, sees and agrees to.

Each command is imported when it runs; what it does is left to the rooms below.
"""
