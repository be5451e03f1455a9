"""MkDocs hooks: insert the reference of all configuration keys, generated from the schema, into its page."""

from typing import Any

from raycrnn import config
from raycrnn.data.synthetic.recipe import Recipe

MARKER = "<!-- The reference of all keys is inserted here. -->"
RECIPE_MARKER = "<!-- The reference of all keys of a recipe is inserted here. -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with the markers replaced; other pages are returned unchanged."""
    if MARKER in markdown:
        markdown = markdown.replace(MARKER, config.reference_markdown())
    if RECIPE_MARKER in markdown:
        markdown = markdown.replace(RECIPE_MARKER, "\n\n".join(config.tables_markdown(Recipe, level=3)) + "\n")
    return markdown
