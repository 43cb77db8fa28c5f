"""The documentation site: ``make docs`` builds it into ``build/docs``.

Sphinx, because the docstrings are written for it; MyST, because the pages are Markdown that a forge
shows too; furo, which is searchable, readable on a phone, and dark or light; sphinx-gallery, which
runs the examples. ``_extensions`` has what is particular to this repository.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extensions"))

import mabm

project = "mabm"
author = "the mabm authors"
copyright = "the mabm authors, MIT license"
release = version = mabm.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
    "code_links",
    "docstrings",
    "public_names",
    "repository_links",
]
exclude_patterns = ["_extensions", "_templates", "examples/*"]
templates_path = ["_templates"]

# Every reference has a target. Names of other libraries have none here: they are shown as code, as
# their own documentation is not at hand during a build.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|numpy|np|scipy|sklearn|pydantic|argparse|dataclasses|os|pathlib)\..*"),
    (r"py:.*", r"mabm(\.\w+)*\._\w+(\.\w+)*"),
]

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3

autosummary_generate = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # the docstrings state kinds and shapes, which annotations do not
autodoc_member_order = "bysource"
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 80
napoleon_numpy_docstring = False
napoleon_attr_annotations = False
napoleon_custom_sections = ["Source"]

copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True

sphinx_gallery_conf = {
    "examples_dirs": "examples",
    "gallery_dirs": "gallery",
    "filename_pattern": r"(?<!several_processes)\.py$",  # that one reads files of its user
    "doc_module": ("mabm",),
    "reference_url": {"mabm": None},
    "show_memory": False,
    "min_reported_time": 1e9,  # seconds: a build's times are those of its machine
    "write_computation_times": False,
    "download_all_examples": False,
    "remove_config_comments": True,
}
suppress_warnings = ["config.cache"]  # sphinx-gallery's settings hold what is not pickled

html_theme = "furo"
html_title = "mabm"
html_static_path = ["_static"]
html_favicon = "_static/favicon.svg"
html_css_files = ["custom.css"]
html_show_sphinx = False
html_copy_source = False
pygments_style = "a11y-high-contrast-light"
pygments_dark_style = "a11y-high-contrast-dark"
