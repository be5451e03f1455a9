"""Test how the cluster's resources are divided between trials."""

from itertools import product

import pytest

from raycrnn import config
from raycrnn.errors import UsageError
from raycrnn.tuning.resources import TrialResources, divide_resources
from raycrnn.tuning.search_space import Search


def divided(
    nodes: list[tuple[float, float]], workers: int | None = None, gpu: object = "auto", **search: object
) -> TrialResources:
    tree = {"data": {"csv_files_train": ["a.csv"]}, "cluster": {"num_workers": workers, "use_gpu": gpu}}
    search_ = Search(search={"model.keep_prob": {"uniform": [0.5, 1]}}, **{"samples": 20, **search})
    return divide_resources(config.parse(tree), search_, nodes)


def reserved(found: TrialResources) -> dict[str, float]:
    return dict(found.placement_group().bundles[0])


def test_two_cores_run_two_trials_with_one_thread_each():
    found = divided([(2, 0)])
    assert (found.concurrent, found.allocation.threads, found.allocation.decode_tasks) == (2, 1, 1)
    assert found.allocation.in_command
    # This includes decoding, or Tune would start a third trial.
    assert reserved(found) == {"CPU": 1}


def test_few_trials_get_more_cpus_each():
    found = divided([(16, 0)], samples=3)
    assert (found.concurrent, found.allocation.threads) == (4, 4)


def test_trials_of_two_workers_take_turns_on_two_cores():
    found = divided([(2, 0)], workers=2)
    assert (found.concurrent, found.allocation.num_workers, found.allocation.in_command) == (1, 2, False)
    # The trial's process reserves no CPU, because its workers need them, but only one such process fits.
    assert reserved(found) == {"node:__internal_head__": 0.95}


def test_trials_with_a_fraction_share_a_gpu():
    found = divided([(16, 2)], resources={"gpus": 0.5})
    assert found.concurrent == 4
    assert reserved(found)["GPU"] == 0.5
    assert divided([(16, 2)]).concurrent == 2


def test_a_search_can_run_without_the_gpus():
    found = divided([(4, 1)], resources={"gpus": 0})
    assert (found.concurrent, found.allocation.use_gpu) == (4, False)
    assert not divided([(4, 1)], gpu=False).allocation.use_gpu


def test_concurrent_limits_the_trials_at_a_time():
    assert divided([(8, 0)], concurrent=3).concurrent == 3
    assert divided([(2, 0)], concurrent=9).concurrent == 2


@pytest.mark.parametrize(
    ("nodes", "settings"),
    [
        ([(2, 0)], {"workers": 3}),
        ([(2, 0)], {"resources": {"cpus": 3}}),
        ([(1, 0), (1, 0)], {"resources": {"cpus": 2}}),
        ([(8, 1)], {"resources": {"gpus": 2}}),
        ([(8, 1)], {"workers": 2}),
    ],
)
def test_a_cluster_too_small_for_one_trial_is_refused_with_its_resources(nodes, settings):
    with pytest.raises(UsageError, match=r"no trial can run: each needs \d worker.*and the cluster has"):
        divided(nodes, **settings)


def test_several_workers_cannot_share_a_gpu():
    with pytest.raises(UsageError, match=r"resources\.gpus: 0\.5: several workers"):
        divided([(8, 4)], workers=2, resources={"gpus": 0.5})


def test_elastic_workers_are_refused():
    tree = {"data": {"csv_files_train": ["a.csv"]}, "cluster": {"num_workers": [1, 2]}}
    with pytest.raises(UsageError, match="set one number"):
        divide_resources(config.parse(tree), Search(search={"model.keep_prob": {"uniform": [0.5, 1]}}), [(2, 0)])


@pytest.mark.parametrize(("cpus", "workers", "samples"), list(product([1, 2, 3, 7, 64], [1, 2, 3], [1, 5, 100])))
def test_concurrent_trials_fit_into_the_cluster(cpus, workers, samples):
    if workers > cpus:
        return
    found = divided([(cpus, 0)], workers=workers, samples=samples)
    if workers == 1:
        # Tune starts as many trials as fit by what each reserves.
        assert int(cpus / reserved(found)["CPU"] + 1e-6) == min(found.concurrent, cpus)
        assert found.allocation.cpus_per_worker < found.cpus
    else:
        each = found.allocation.cpus_per_worker + found.allocation.decode_tasks * found.allocation.cpus_per_decode_task
        assert found.concurrent * workers * each <= cpus + 0.01


def test_no_more_than_concurrent_trials_fit():
    found = divided([(16, 0)], concurrent=2, resources={"cpus": 1})
    assert int(16 / reserved(found)["CPU"]) == 2
    assert found.allocation.threads == 1


def test_cpus_that_suffice_for_decoding_only_are_refused():
    with pytest.raises(UsageError, match=r"resources\.cpus: 0\.25: decoding images alone needs 0\.25"):
        divided([(2, 0)], resources={"cpus": 0.25})
