"""Sphinx configuration: HTML and man pages from the same sources; what the code knows is generated from the code."""

from __future__ import annotations

import sys
from pathlib import Path

DOCS = Path(__file__).parent
sys.path.insert(0, str(DOCS / "_ext"))

from cowstore._version import __version__  # noqa: E402  # below the path it does not need, beside what does

project = "cowstore"
author = "the cowstore maintainers"
copyright = "the cowstore maintainers"
release = version = __version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "from_code", "bench_history"]
myst_enable_extensions = ["colon_fence", "deflist", "fieldlist"]
myst_heading_anchors = 3
exclude_patterns = ["_build", "_generated", "examples"]
smartquotes = False  # "--base" is an option, not a dash

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_class_signature = "separated"
# The standard library is not resolved over the network: a build must work without one.
# Nor is what lies below the public surface: docstrings may name it.
nitpick_ignore_regex = [
    ("py:.*", r"(?!cowstore).*"),
    ("py:.*", r"cowstore\.(_\w+|catalog|drivers|layers|leases|mounting|runtime|trees)\..*"),
]

html_theme = "furo"
html_title = f"cowstore {release}"
html_copy_source = False

man_pages = [
    ("man/cowstore", "cowstore", "manage the snapshots of a store", "", 1),
    ("man/cowstore-run", "cowstore-run", "run a process on a copy-on-write root file system", "", 1),
]
man_show_urls = True
