"""The lists of all keys, in `--help` and in the documentation."""

import re

from raycrnn import config


def test_every_key_is_described_and_listed_with_its_default_for_help():
    table = config.describe_keys()
    for key, field in config.fields().items():
        assert field.description, f"{key} has no description"
        default = r"( \(required\)| \[default: .+\])?"
        meaning = re.escape(field.description.split()[0])
        assert re.search(rf"^  {key}{default}\n      {meaning}", table, re.MULTILINE)
    for absent in ("null]", "[]]", '"'):
        assert f"default: {absent}" not in table


def test_the_reference_has_a_row_for_each_key_with_its_type_default_and_limits():
    rows = config.reference_markdown().splitlines()
    for key in config.fields():
        assert sum(row.startswith(f"| `{key}` | ") for row in rows) == 1
    for row in (
        '| `model.size` | string | `"full"` | Size of the network, which sets cnn_channels and lstm_size: full has 64 '
        "to 512 channels and 256 LSTM units (as tf-crnn), half 32 to 256 and 128, quarter 16 to 128 and 128. | "
        '`"full"`, `"half"`, `"quarter"` |',
        "| `training.seed` | integer | `0` | Seed of all random numbers of a run. | ≥ 0, < 4294967296 |",
        r'| `data.string_split_delimiter` | character | `"|"` | Character that marks a label as a sequence of units, '
        r"as in \|a\|b\| \|c\|, when the label starts with it. |  |",
        "| `keep_prob` | `model.keep_prob` |",
    ):
        assert row in rows
    for start in (
        "| `cluster.num_workers` | integer or list of 2 integers or null | `null` | ",
        "| `data.csv_files_train` | list of strings or object of numbers | required | ",
        "| `model.cnn_channels` | list of 7 integers or null | `null` | ",
    ):
        assert any(row.startswith(start) for row in rows)
