"""The agents in which a test of a plugin is run: coding agents by their hooks, frameworks with a scripted model."""
