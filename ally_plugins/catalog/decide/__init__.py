"""What follows from the facts about one plugin: its state, placement and record, and the plan to agree to.

Pure; the facts are gathered by `catalog.plugin_facts`.
"""
