"""Decisions from facts and the time: permissions, budgets, order, verdicts, restarts, validation.

Nothing here waits, reads a clock or touches the machine; whoever calls gives the time, in seconds. Asking plugins, and
acting on a decision, is left to the rooms above.
"""
