"""How Sphinx builds the site; `make docs` calls it."""

project = "mixpanel-pipeline"
extensions = ["myst_parser"]
html_theme = "furo"
html_title = "Mixpanel in your own database"
# Headings are linked to by the names that a code host gives them.
myst_heading_anchors = 3
