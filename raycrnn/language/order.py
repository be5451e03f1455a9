"""The order of language models: the number of units in the longest n-grams. Importing it imports no NumPy."""

MAX_ORDER = 9

DEFAULT_ORDER = 6
"""Longer n-grams improve neither perplexity nor error rates (see docs/language_models.md)."""
