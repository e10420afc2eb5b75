"""The offline model: no key, no network, and no understanding; it does what a small set of requests says.

Running the agent around it is left to `cli.chat`.
"""
