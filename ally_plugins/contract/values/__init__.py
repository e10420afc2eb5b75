"""The values that everything carries: events, messages, verdicts, errors, and their JSON.

What they mean is left to others.
"""
