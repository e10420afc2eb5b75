"""A real coding agent without a network: a model that says what a script has, and what the agent needs to reach it.

`connect --verify` runs an agent so, and the project's own tests of the real programs do.
"""
