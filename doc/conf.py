# SPDX-License-Identifier: Apache-2.0
"""Sphinx: the pages of this directory, and references made from the code.

Built by tools/docs.sh. The pages are Markdown and are meant to be read as they are, too.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

import history

project = "manila_backup"
author = "the manila_backup authors"
copyright = author

extensions = [
    "myst_parser",
    "oslo_config.sphinxext",
    "oslo_policy.sphinxext",
    "rest_reference",
    "state_tables",
    "reno.sphinxext",
]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["build", "_ext", "samples"]
if not history.is_there(Path(__file__).resolve().parent.parent):
    exclude_patterns.append("releasenotes.rst")

myst_heading_anchors = 3
# The domain of oslo.config cannot be searched.
myst_ref_domains = ["std"]
nitpicky = True
pygments_style = "sphinx"
# A block without a language is a terminal, or a layout of files.
highlight_language = "text"

html_theme = "alabaster"
html_theme_options = {
    "description": "Backup and restore of Manila shares",
    "page_width": "70em",
    "fixed_sidebar": True,
}
html_show_sphinx = False
html_copy_source = False
