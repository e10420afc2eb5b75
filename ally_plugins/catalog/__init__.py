"""What is installed, settled and agreed to, and what follows from it for each plugin.

Running a plugin is left to `host`.
"""
