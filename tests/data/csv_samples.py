"""CSVs that the tests of reading them share."""


# --- files


def csv(tmp_path, content: bytes):
    path = tmp_path / "data.csv"
    path.write_bytes(content)
    return path
