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


def as_on_disk(path: str | os.PathLike[str]) -> str:
    """Return a local path with its names in the Unicode normal forms in which they exist.

    Names that do not exist, such as that of a file to write, stay as they are.
    """
    path = os.fspath(path)
    if os.path.lexists(path):
        return path
    if found := in_other_form(path):
        return found
    folder, name = os.path.split(path)
    return os.path.join(as_on_disk(folder), name) if folder else path
