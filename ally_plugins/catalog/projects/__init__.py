"""Plugins per project: what lies in the `.ally` of a folder, and what of it the operator has trusted.

A folder is read by `ally_folder` only when somebody trusts it; what holds is the copy in the home, kept by `trusted`.
"""
