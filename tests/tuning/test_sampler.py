"""Test the values that the trials of a search get."""

import math

import pytest

from raycrnn.tuning.sampler import Sampler, importances
from raycrnn.tuning.search_space import Search


def space(algorithm: str = "random", samples: int = 20, **written: dict) -> Search:
    keys = {
        "rate": "training.learning_rate",
        "size": "model.lstm_size",
        "keep": "model.keep_prob",
        "cnn": "model.cnn_channels",
    }
    return Search(search={keys[name]: of for name, of in written.items()}, algorithm=algorithm, samples=samples)


def values_of(sampler: Sampler, count: int) -> list[dict]:
    return [sampler.ask(number) for number in range(1, count + 1)]


def test_values_are_drawn_from_their_distributions():
    search = space(
        rate={"loguniform": [1e-4, 1e-2]},
        size={"randint": [1, 3]},
        keep={"quniform": [0.5, 1.0, 0.25]},
        cnn={"choice": [[8] * 7, [16] * 7]},
    )
    found = values_of(Sampler(search, 0), 60)
    rates = [values["training.learning_rate"] for values in found]
    assert all(1e-4 <= rate <= 1e-2 for rate in rates)
    # Half of a logarithmic range is below its geometric mean.
    assert 15 < sum(rate < math.sqrt(1e-4 * 1e-2) for rate in rates) < 45
    assert {values["model.lstm_size"] for values in found} == {1, 2, 3}
    assert {values["model.keep_prob"] for values in found} == {0.5, 0.75, 1.0}
    assert {tuple(values["model.cnn_channels"]) for values in found} == {(8,) * 7, (16,) * 7}
    assert all(list(values) == list(search.search) for values in found)


def test_the_seed_determines_the_values():
    search = space(rate={"loguniform": [1e-4, 1e-2]})
    assert values_of(Sampler(search, 1), 5) == values_of(Sampler(search, 1), 5)
    assert values_of(Sampler(search, 1), 5) != values_of(Sampler(search, 2), 5)


def test_grid_points_come_in_order_with_drawn_values():
    search = space(samples=2, size={"grid": [64, 128, 256]}, keep={"uniform": [0.5, 1]})
    found = values_of(Sampler(search, 0), search.trials)
    assert [values["model.lstm_size"] for values in found] == [64, 128, 256] * 2
    assert len({values["model.keep_prob"] for values in found}) == 6


@pytest.mark.parametrize("algorithm", ["random", "tpe"])
def test_no_values_are_tried_twice(algorithm):
    search = space(algorithm, samples=99, size={"choice": [64, 128, 256]}, keep={"choice": [0.5, 1.0]})
    assert search.trials == 6
    sampler, found = Sampler(search, 0), []
    for number in range(1, 7):
        values = sampler.ask(number)
        sampler.tell(number, values, {"cer": 0.1})
        found.append(tuple(values.values()))
    assert len(set(found)) == 6


def test_values_of_an_earlier_command_are_not_tried_again():
    sampler = Sampler(space(keep={"choice": [0.5, 1.0]}), 0)
    sampler.tell(1, {"model.keep_prob": 1.0}, {"cer": 0.1})
    assert sampler.ask(2) == {"model.keep_prob": 0.5}


def test_tpe_learns_from_scores():
    """Compare with random search on a parabola with a known minimum."""

    def mean_of_late_trials(algorithm: str) -> float:
        sampler = Sampler(space(algorithm, keep={"uniform": [0.01, 1]}), 3)
        losses = []
        for number in range(1, 41):
            values = sampler.ask(number)
            losses.append((values["model.keep_prob"] - 0.3) ** 2)
            sampler.tell(number, values, {"cer": losses[-1]})
        return sum(losses[20:]) / 20

    assert mean_of_late_trials("tpe") < 0.5 * mean_of_late_trials("random")


def test_tpe_learns_from_an_earlier_command_and_accepts_failed_trials():
    sampler = Sampler(space("tpe", keep={"uniform": [0.01, 1]}), 0)
    for number in range(1, 30):
        keep = 0.01 + 0.033 * number
        sampler.tell(number, {"model.keep_prob": keep}, {"cer": (keep - 0.3) ** 2})
    asked = sampler.ask(30)
    sampler.tell(30, asked, None)
    late = [sampler.ask(number)["model.keep_prob"] for number in range(31, 41)]
    assert sum(abs(keep - 0.3) < 0.2 for keep in late) >= 7


def test_both_metrics_are_recorded():
    search = Search(
        search={"model.keep_prob": {"uniform": [0.1, 1]}}, metric=["cer", "speed"], algorithm="tpe", samples=9
    )
    sampler = Sampler(search, 0)
    for number in range(1, 10):
        values = sampler.ask(number)
        sampler.tell(number, values, {"cer": 0.1, "speed": 100 * values["model.keep_prob"]})
    assert [trial.values[1] for trial in sampler._study.best_trials] == [
        max(trial.values[1] for trial in sampler._study.trials)
    ]


@pytest.mark.parametrize("metric", ["cer", "accuracy"])
def test_the_most_important_key_comes_first(metric):
    search = Search(
        search={"training.learning_rate": {"uniform": [0.1, 1]}, "model.keep_prob": {"uniform": [0.1, 1]}},
        metric=metric,
    )
    sampler = Sampler(search, 0)
    trials = [(values, {metric: values["training.learning_rate"] ** 2}) for values in values_of(sampler, 40)]
    found = importances(search, trials)
    assert next(iter(found)) == "training.learning_rate"
    assert found["training.learning_rate"] > 0.7
    assert sum(found.values()) == pytest.approx(1)


def test_few_trials_give_no_importances():
    search = Search(search={"model.keep_prob": {"uniform": [0.1, 1]}})
    assert importances(search, [({"model.keep_prob": 0.5}, {"cer": 0.1})] * 3) == {}


def test_a_choice_of_lists_is_recorded_by_index():
    search = space("tpe", cnn={"choice": [[8] * 7, [16] * 7]})
    sampler = Sampler(search, 0)
    sampler.tell(1, {"model.cnn_channels": [16] * 7}, {"cer": 0.1})
    assert [trial.params for trial in sampler._study.trials] == [{"model.cnn_channels": 1}]


def test_the_base_is_not_recorded():
    sampler = Sampler(space("tpe", keep={"uniform": [0.1, 1]}), 0)
    sampler.tell(0, {}, {"cer": 0.1})
    assert sampler._study.trials == []
