"""Indexes of plugins: static JSON that anybody can host, read when the operator searches, and written from wheels.

An index is a text to look at. Nothing of it is installed, run or believed: an installer fetches what is installed, and
consent is asked for what that has.
"""
