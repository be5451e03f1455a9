"""Check the data sets of a configuration."""

import time

from raycrnn import config
from raycrnn.checking import copies, lengths, samples, sizes, units, unusual
from raycrnn.checking.executor import scan_all
from raycrnn.checking.findings import CheckResult
from raycrnn.checking.labelled_set import LabelledSet
from raycrnn.config import Configuration
from raycrnn.data import usable_rows
from raycrnn.training import initial_model


def check(configuration: Configuration, address: str | None = None) -> tuple[CheckResult, list[LabelledSet]]:
    """Check the training set and, if there is one, the evaluation set of a configuration.

    Args:
        address: Address of a Ray cluster that reads the images. Default: the environment variable RAY_ADDRESS, else
            this process for few images and a local Ray for many.

    Returns:
        What was found, and the data sets.

    Raises:
        UsageError: A file cannot be read or has no usable label, the initial model does not fit the configuration, or
            no cluster answers at the address.
        RaycrnnError: Ray does not start, or its workers die repeatedly.
        StorageError: Object storage fails.
    """
    import_seconds = time.process_time()
    sets_shape = "image.input_shape" in config.set_keys(configuration)
    configuration, model, csvs = initial_model.prepare_run(configuration)
    files = [*csvs.train, *csvs.eval]
    notes = scan_all(usable_rows.paths_of(files), configuration.image.input_channels, address, import_seconds)
    rows = sum(len(file.rows) for file in csvs.train)
    train = LabelledSet("train", csvs.train, notes.slice(0, rows), csvs.alphabet, csvs, configuration)
    sets = [train]
    if csvs.eval:
        sets.append(LabelledSet("eval", csvs.eval, notes.slice(rows), train.alphabet, csvs, configuration))
    same = copies.same_images(sets)
    sections = [
        samples.samples_section(sets),
        units.units_section(sets, csvs.alphabet, csvs.text_direction, model.alphabet.units if model else ()),
        lengths.lengths_section(sets),
        sizes.sizes_section(sets, keep_height=model is not None and not sets_shape),
        unusual.unusual_section(sets),
        copies.copies_section(sets, same),
        copies.conflicts_section(same),
    ]
    rejections = sorted(
        (rejection for each in sets for rejection in each.rejections), key=lambda each: (each.csv, each.line)
    )
    return CheckResult(sections, rejections, [file.path for file in files]), sets
