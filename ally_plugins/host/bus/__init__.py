"""The one path from a plugin to its host: messages, events, context, actions, tools, tasks, all by the same steps.

`bus` carries out each call, `steps` has what they share; what a step decides is left to `policy`.
"""
