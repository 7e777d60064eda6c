"""Configure the site that `make docs` builds; reasons are in docs/decisions/0012-the-site.md."""

from __future__ import annotations

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

project = "emerdiff-probe"
author = "The emerdiff-probe contributors"
copyright = author
version = release = version_of(project)

# The repository is the source, so that a link means the same here and on a code host.
root_doc = "docs/index"
include_patterns = ["*.md", "docs/**.md", "docs/**.rst", "notebooks/*.ipynb"]
exclude_patterns = [".*", "build", "constraints", "demo", "dist", "emerdiff_probe", "tests"]

extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.mathjax",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "api",
    "figures",
    "gallery",
]

# Notebooks are shown with their stored outputs: tests compare these with new runs.
nb_execution_mode = "off"
nb_merge_streams = True
myst_heading_anchors = 3
myst_enable_extensions = ["deflist", "dollarmath"]
suppress_warnings = ["mystnb.unknown_mime_type"]  # plotly's output, beside which there is an image

autodoc_typehints_format = "short"
autodoc_member_order = "bysource"
autodoc_default_options = {"members": True}
napoleon_use_ivar = True
napoleon_attr_annotations = False
default_role = "py:obj"
add_module_names = False
toc_object_entries_show_parents = "hide"
python_use_unqualified_type_names = True
python_maximum_signature_line_length = 90

# A name of this package that leads nowhere is an error. Names of others would need the network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:obj", ".*"),
    ("py:.*", r"(?!emerdiff_probe\b).*"),
    # attributes of a Recorder, which `probe` makes
    ("py:class", r"emerdiff_probe\.recording\.callers\.Target"),
    # the common base of models of both kinds
    ("py:class", r"emerdiff_probe\.models\.pipeline_model\.PipelineModel"),
]

html_theme = "furo"
html_title = "emerdiff-probe"
html_static_path = ["static"]
html_css_files = ["site.css"]
html_extra_path = ["extra"]
html_copy_source = False
html_show_sphinx = False
html_show_copyright = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
