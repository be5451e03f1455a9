"""Find local files whose names are in another Unicode normal form."""

import os
import unicodedata


def in_other_form(path: str) -> str | None:
    """Return the path of a local file or folder whose name differs from a missing one only in its Unicode normal form.

    Macs and archives made on them write `é` as two characters, which files from elsewhere write as one.

    Returns:
        The path, or None if there is no such file or folder.
    """
    found = ""
    for part in path.split(os.sep):
        forms = (part, unicodedata.normalize("NFC", part), unicodedata.normalize("NFD", part))
        existing = [name for form in forms if os.path.lexists(name := f"{found}{form}" or os.sep)]
        if not existing:
            return None
        found = existing[0].rstrip(os.sep) + os.sep
    found = found.rstrip(os.sep)
    return None if found in ("", path) else found
