"""Train text recognisers from CSV files of images, on a laptop or on a Ray cluster, and use them.

from raycrnn import Recognizer
recognizer = Recognizer.load("output/model")
print(recognizer(["line.png"])[0].text)
"""

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from raycrnn.model.recognizer import Recognizer
    from raycrnn.model.transcription import Transcription
    from raycrnn.model.voter import Voter

__all__ = ["Recognizer", "Transcription", "Voter", "__version__"]

__version__ = "0.1.0"

_MODULES = {
    "Recognizer": "raycrnn.model.recognizer",
    "Transcription": "raycrnn.model.transcription",
    "Voter": "raycrnn.model.voter",
}


def __getattr__(name: str) -> type:
    """Import a public class when it is first used, because its module imports torch."""
    if name not in _MODULES:
        raise AttributeError(f"module 'raycrnn' has no attribute {name!r}")
    value: type = getattr(importlib.import_module(_MODULES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
