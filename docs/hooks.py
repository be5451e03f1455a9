"""MkDocs hooks: insert the reference of all configuration keys, generated from the schema, into its page."""

from typing import Any

from raycrnn import config

MARKER = "<!-- The reference of all keys is inserted here. -->"


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Return a page with the marker replaced; other pages are returned unchanged."""
    return markdown.replace(MARKER, config.reference_markdown()) if MARKER in markdown else markdown
