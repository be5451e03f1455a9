"""Rows that show the same image."""

import unicodedata

from raycrnn.data.csv_files import read_csv
from raycrnn.data.duplicates import conflicting_labels, same_images


def test_rows_with_the_same_path_or_the_same_contents_are_found(tmp_path):
    for name, content in {"a.png": b"one", "copy.png": b"one", "b.png": b"two", "c.png": b"longer"}.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "link.png").symlink_to("c.png")
    (tmp_path / "rows.csv").write_text(
        "a.png;1\nb.png;2\n./a.png;1\nc.png;3\ncopy.png;1\nlink.png;4\ngone.png;5\n./gone.png;6\nalone.png;7\n"
        "s3://b/a.png;8\ns3://b/a.png;8\nnul\0.png;9\nnul\0.png;9\n"
    )
    groups = same_images(read_csv(tmp_path / "rows.csv"))
    assert [[row.line for row in group] for group in groups] == [[1, 3, 5], [4, 6], [7, 8], [10, 11], [12, 13]]
    conflicts = conflicting_labels(groups)
    assert [[(row.line, row.label) for row in rows] for rows in conflicts] == [
        [(4, "3"), (6, "4")],
        [(7, "5"), (8, "6")],
    ]


def test_a_file_is_the_same_image_in_both_unicode_normal_forms(tmp_path):
    composed, decomposed = (unicodedata.normalize(form, "é.png") for form in ("NFC", "NFD"))
    (tmp_path / decomposed).write_bytes(b"one")
    (tmp_path / "copy.png").write_bytes(b"one")
    (tmp_path / "rows.csv").write_text(f"{composed};1\n{decomposed};1\ncopy.png;1\n", encoding="utf-8")
    [group] = same_images(read_csv(tmp_path / "rows.csv"))
    assert [row.line for row in group] == [1, 2, 3]
