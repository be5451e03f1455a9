"""Files of packed data sets in object storage, held in Ray's object store for the duration of a training run."""

import logging
from collections.abc import Iterable, Mapping
from functools import lru_cache

import numpy as np
import ray

from raycrnn import storage
from raycrnn.cluster import nodes
from raycrnn.data import byte_ranges
from raycrnn.data.byte_ranges import FindFile
from raycrnn.errors import StorageError

logger = logging.getLogger(__name__)

MAX_STORE_FRACTION = 0.25
"""Largest fraction of a node's object store that the files may fill. Tasks on every node read all of them."""

MAX_FILES = 4096
"""Largest number of files: every decoding task receives the references to all of them."""

CPUS_OF_A_READER = 0.25
"""CPUs that Ray reserves for a task that reads a file, which mostly waits for the network."""

PackedFiles = Mapping[str, ray.ObjectRef]
"""The contents of files, uint8 [bytes], by URI. Small itself; can be sent to any process."""


def put(paths: Iterable[str]) -> PackedFiles:
    """Read the files of packed data sets in object storage into the object store, if they are not too large.

    Training reads images in random order. Whole files take a fraction of the time of as many small requests.

    Args:
        paths: Paths of images.

    Raises:
        StorageError: Object storage fails.
    """
    references = (byte_ranges.parse_reference(path) for path in paths if storage.is_uri(path))
    files = list(dict.fromkeys(reference.file for reference in references if reference))
    if not files:
        return {}
    size = sum(map(_size, files))
    what = f"{len(files):,} files of packed data sets ({size / 1e6:,.0f} MB)"
    if size > MAX_STORE_FRACTION * nodes.smallest_object_store() or len(files) > MAX_FILES:
        logger.info(f"{what} are read from object storage in every epoch, because they would fill the memory")
        return {}
    logger.info(f"reading {what} from object storage into memory")
    read = ray.remote(num_cpus=CPUS_OF_A_READER, num_returns=2)(_read)
    contents, problems = zip(*(read.remote(file) for file in files), strict=True)
    for problem in ray.get(list(problems)):
        if problem is not None:
            raise problem
    return dict(zip(files, contents, strict=True))


def _size(file: str) -> int:
    try:
        return storage.size(file)
    except OSError as error:
        raise StorageError(f"{storage.redacted(file)}: cannot be read: {storage.describe(error)}") from None


def _read(file: str) -> tuple[np.ndarray, StorageError | None]:
    # Returned, because Ray would add the task's stack trace to the message of an error that is raised.
    try:
        return np.frombuffer(storage.read(file), np.uint8), None
    except OSError as error:
        message = f"{storage.redacted(file)}: cannot be read: {storage.describe(error)}"
        return np.zeros(0, np.uint8), StorageError(message)


def finder(files: PackedFiles) -> FindFile:
    """Return a function that returns the contents of a file, or None if they are not in the object store."""

    def find(file: str) -> memoryview | None:
        reference = files.get(file)
        return None if reference is None else _contents(reference).data

    return find


@lru_cache(maxsize=MAX_FILES)
def _contents(reference: ray.ObjectRef) -> np.ndarray:
    """Return the contents of a file, mapped from this node's object store without a copy."""
    return ray.get(reference)
