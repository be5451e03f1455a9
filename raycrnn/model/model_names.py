"""The models that come with raycrnn, by name. A name may stand wherever the path or URI of a model directory may."""

from importlib import resources

NAMES = ("latin", "latin48")
"""In the order of the heights at which they read lines. They have the same units and the same network."""


def directory_of(location: str) -> str:
    """Return the directory in the package of the model with a name, or else the path or URI itself.

    Other nodes have the package elsewhere, so they are told the name. Write `./latin` for a folder of such a name.
    """
    return str(resources.files("raycrnn.model") / "base_models" / location) if location in NAMES else location
