"""The one path from a plugin to its host: messages, events, context, actions, tools, tasks, all by the same steps.

What each step decides is left to `policy`.
"""
