"""Sphinx's configuration; `nox -s docs` builds with every warning an error."""

from __future__ import annotations

from importlib.metadata import version as distribution_version

project = "ally_plugins"
author = "The ally_plugins maintainers"
project_copyright = "2026, The ally_plugins maintainers"
version = release = distribution_version("ally-plugins")

extensions = ["myst_parser"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
exclude_patterns = ["_build"]
nitpicky = True

html_theme = "furo"
html_title = "ally_plugins"
html_copy_source = False
