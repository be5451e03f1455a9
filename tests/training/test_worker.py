"""What the workers of a run decide together."""

import pytest

from raycrnn.errors import StorageError
from raycrnn.training import collectives, worker


def test_all_workers_end_if_the_storage_of_one_fails(monkeypatch):
    worker.raise_if_storage_failed(None)
    monkeypatch.setattr(collectives, "gather", lambda problem: [problem, "s3://lines/a.png: SLOW_DOWN"])
    with pytest.raises(StorageError, match=r"a\.png: SLOW_DOWN.*restore_model=true"):
        worker.raise_if_storage_failed(None)
