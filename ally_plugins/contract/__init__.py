"""What a plugin's author and a host agree on: hooks, handle, manifest, grants, settings.

Values and checks only; nothing here waits or touches the machine.
"""
