"""How many folds are trained side by side, and what each takes."""

import pytest

from raycrnn import config
from raycrnn.cluster import allocate
from raycrnn.folds.resources import room_for_folds


def configuration_of(*overrides: str) -> config.Configuration:
    return config.parse({"data": {"csv_files_train": "a.csv"}, "training": {"folds": 5}}, overrides)


@pytest.mark.parametrize(
    ("nodes", "overrides", "room"),
    [
        ([(2, 0)], [], 1),
        ([(3.9, 0)], [], 1),
        ([(4, 0)], [], 2),
        ([(16, 0)], [], 5),
        ([(0, 0), (4, 0), (3, 0)], [], 3),
        ([(8, 0)], ["cluster.num_workers=2"], 2),
        ([(8, 0)], ["cluster.num_workers=[1,2]"], 1),
        ([(16, 2)], [], 2),
        ([(16, 8)], [], 5),
        ([(16, 8)], ["cluster.num_gpus=4"], 2),
        ([(16, 8)], ["cluster.use_gpu=false", "cluster.num_workers=4"], 2),
        ([(4, 0)], ["cluster.cpus_per_worker=2"], 1),
        ([(16, 0)], ["cluster.cpus_per_worker=4"], 3),
        ([(16, 0)], ["cluster.cpus_per_worker=0.5"], 5),
        ([(16, 8)], ["cluster.cpus_per_worker=3"], 4),
    ],
)
def test_as_many_folds_run_as_have_room(nodes, overrides, room):
    assert room_for_folds(configuration_of(*overrides), nodes)[0] == room


@pytest.mark.parametrize("nodes", [[(4, 0)], [(16, 0)], [(7, 0), (5, 0)], [(16, 4)], [(32, 4), (32, 4)]])
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("given", [None, 1, 2, 3])
def test_the_shares_of_all_folds_fit_into_the_cluster(nodes, workers, given):
    overrides = [f"cluster.cpus_per_worker={given}"] if given else []
    configuration = configuration_of(f"cluster.num_workers={workers}", *overrides)
    room, values = room_for_folds(configuration, nodes)
    if room == 1:
        assert not values
        return
    own = config.completed(configuration, values)
    allocation = allocate(own.cluster, own.data.input_data_n_parallel_calls, nodes)
    cpus = allocation.num_workers * (
        allocation.cpus_per_worker + allocation.decode_tasks * allocation.cpus_per_decode_task
    )
    assert given or room * cpus <= sum(cpus for cpus, _ in nodes) + 1e-6
    # One CPU is left for each worker, which decodes.
    reserved = room * allocation.num_workers * allocation.cpus_per_worker
    assert not given or reserved + room * workers <= sum(cpus for cpus, _ in nodes) + 1e-6
    assert allocation.num_workers == workers
    assert allocation.use_gpu == any(gpus for _, gpus in nodes)


def test_settings_of_the_user_are_kept():
    configuration = configuration_of("cluster.cpus_per_worker=0.5", "data.input_data_n_parallel_calls=3")
    assert room_for_folds(configuration, [(16, 0)]) == (5, {"cluster.num_workers": 1})
