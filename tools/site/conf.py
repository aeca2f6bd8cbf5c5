# SPDX-License-Identifier: GPL-3.0-or-later
"""How Sphinx builds the site; tools/website.py puts the pages together before."""

from __future__ import annotations

project = "trtllm.fleet"
author = "The trtllm.fleet authors"
copyright = author
extensions = ["myst_parser", "sphinx_antsibull_ext"]
html_theme = "furo"
html_title = "trtllm.fleet"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_show_sphinx = False
html_show_copyright = False
html_copy_source = False
html_show_sourcelink = False
# Readable for everybody: the contrast of Sphinx's own style is too low in places.
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
highlight_language = "text"
# The anchors that forges give to headings, so that a link works there and here.
myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
# Blocks are shown as they are typed: YAML with places to fill in, consoles with output.
suppress_warnings = ["misc.highlighting_failure"]
