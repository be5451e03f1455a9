"""All faults of a data set are found, and none is invented."""

from collections import Counter

import pytest

from raycrnn import config
from raycrnn.checking.run import check
from tests.checking.faults import FINDINGS, plant


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    return plant(tmp_path_factory.mktemp("faults"))


def test_every_planted_fault_is_found_and_no_other(planted):
    result, _ = check(config.load(planted))
    found = Counter()
    for finding in result.findings:
        found[finding.kind, finding.data_set] += finding.rows
    assert found == FINDINGS
