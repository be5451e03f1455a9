"""The keys: their defaults, limits and effects on each other."""

import pytest
from pydantic import ValidationError

from raycrnn import config
from tests.config.samples import LEAST, leaf, refusal, with_leaf


def test_only_the_training_csvs_must_be_given():
    assert [key for key, field in config.fields().items() if field.is_required()] == ["data.csv_files_train"]
    assert config.parse(LEAST).data.csv_files_train == ("train.csv",)


@pytest.mark.parametrize("key", [k for k, field in config.fields().items() if not field.is_required()])
def test_defaults_are_valid_as_explicit_values(key):
    default = leaf(config.parse(LEAST), key)
    assert leaf(config.parse(with_leaf(key, default)), key) == default


def test_a_configuration_is_immutable():
    with pytest.raises(ValidationError, match="frozen"):
        config.parse(LEAST).training.n_epochs = 3


@pytest.mark.parametrize(
    ("training", "schedule"),
    [
        ({}, "one_cycle"),
        ({"learning_rate": 1e-3}, "one_cycle"),
        ({"learning_decay_rate": 0.9}, "exponential"),
        ({"learning_decay_steps": 10}, "exponential"),
        ({"learning_decay_rate": 0.96, "learning_decay_steps": 1000}, "exponential"),
        ({"learning_decay_rate": 0.9, "schedule": "one_cycle"}, "one_cycle"),
        ({"learning_decay_steps": 10, "schedule": "constant"}, "constant"),
    ],
)
@pytest.mark.parametrize("group", ["training", "training_params"])
def test_learning_decay_without_a_schedule_selects_exponential(group, training, schedule):
    assert config.parse({**LEAST, group: training}).training.schedule == schedule


def test_learning_decay_by_override_selects_exponential_too():
    assert config.parse(LEAST, ["training.learning_decay_rate=0.9"]).training.schedule == "exponential"


@pytest.mark.parametrize(
    ("model", "channels", "lstm"),
    [
        ({}, (64, 128, 256, 256, 512, 512, 512), 256),
        ({"size": "full"}, (64, 128, 256, 256, 512, 512, 512), 256),
        ({"size": "half"}, (32, 64, 128, 128, 256, 256, 256), 128),
        ({"size": "quarter"}, (16, 32, 64, 64, 128, 128, 128), 128),
        ({"size": "half", "lstm_size": 7}, (32, 64, 128, 128, 256, 256, 256), 7),
        ({"size": "half", "cnn_channels": [1, 2, 3, 4, 5, 6, 7]}, (1, 2, 3, 4, 5, 6, 7), 128),
    ],
)
def test_size_sets_channels_and_lstm_and_explicit_keys_win(model, channels, lstm):
    found = config.parse({**LEAST, "model": model}).model
    assert (found.channels, found.lstm_units) == (channels, lstm)


@pytest.mark.parametrize(
    ("override", "csvs", "weights"),
    [
        ("data.csv_files_train=a.csv", ("a.csv",), None),
        ('data.csv_files_train=["a.csv", "b.csv"]', ("a.csv", "b.csv"), None),
        ('data.csv_files_train={"a.csv": 3, "b.csv": 0.5}', ("a.csv", "b.csv"), (3.0, 0.5)),
    ],
)
def test_training_csvs_can_have_weights(override, csvs, weights):
    data = config.parse({}, [override]).data
    assert (data.train_csvs, data.train_weights) == (csvs, weights)


@pytest.mark.parametrize("given", ['{"a.csv": 0}', '{"a.csv": "x"}', "{}", '{"a.csv": -1}'])
def test_invalid_weights_are_refused_in_one_line(given):
    message = refusal(f"data.csv_files_train={given}")
    assert message.count("data.csv_files_train = ") == 1


@pytest.mark.parametrize("given", ["[2, 1]", "[0, 1]", "[1]", "[1, 2, 3]", "0"])
def test_an_invalid_range_of_workers_is_refused_in_one_line(given):
    message = refusal(f"cluster.num_workers={given}")
    assert message.count("cluster.num_workers = ") == 1


@pytest.mark.parametrize(
    ("settings", "batches", "epochs", "between_evaluations"),
    [
        ({}, 130, 60, 1),
        # A hundred rows at 16 in a batch.
        ({}, 7, 429, 7),
        ({}, 1, 3000, 50),
        ({}, 26, 116, 2),
        ({"initial_model": "model", "initial_model_sha256": "0"}, 7, 143, 2),
        ({"n_epochs": 5}, 7, 5, 1),
        ({"evaluate_every_epoch": 2}, 7, 429, 2),
        ({"n_epochs": 90, "evaluate_every_epoch": 3}, 130, 90, 3),
    ],
)
def test_few_rows_are_trained_on_for_more_epochs_by_default(settings, batches, epochs, between_evaluations):
    training = config.Training(**settings)
    assert training.epochs(batches) == epochs
    assert training.epochs_between_evaluations(batches) == between_evaluations
