"""The files of one app's home: settings, consent, secrets, quarantine; read strictly and replaced whole.

What follows from them is decided in `catalog.decide`.
"""
