"""Configurations that the tests of this package share."""

import copy

import pytest

from raycrnn import config
from raycrnn.config import Configuration
from raycrnn.errors import UsageError

LEAST = {"data": {"csv_files_train": ["train.csv"]}}


FLAT = {
    "csv_files_train": ["a.csv", "b.csv"],
    "csv_files_eval": "c.csv",
    "output_model_dir": "runs/first",
    "num_gpus": 2,
    "lookup_alphabet_file": "lookup_digits",
    "input_shape": [48, 304],
    "input_channels": 3,
    "num_beam_paths": 2,
    "training_params": {
        "learning_rate": 1e-4,
        "learning_decay_rate": 0.9,
        "learning_decay_steps": 10000,
        "save_interval": 1e4,
        "n_epochs": 50,
        "train_batch_size": 128,
        "eval_batch_size": 32,
        "optimizer": "adam",
        "evaluate_every_epoch": 5,
    },
    "restore_model": True,
    "csv_delimiter": ",",
    "string_split_delimiter": "^",
    "data_augmentation": False,
    "data_augmentation_max_rotation": 0.2,
    "input_data_n_parallel_calls": 4,
    "keep_prob": 0.7,
}
"""A configuration of tf-crnn with all of its keys, each with a value other than the default of raycrnn."""


LEAF_OF_FLAT_KEY = {
    "csv_files_train": "data.csv_files_train",
    "csv_files_eval": "data.csv_files_eval",
    "output_model_dir": "output_model_dir",
    "num_gpus": "cluster.num_gpus",
    "lookup_alphabet_file": "data.lookup_alphabet_file",
    "input_shape": "image.input_shape",
    "input_channels": "image.input_channels",
    "num_beam_paths": "decoding.num_beam_paths",
    "learning_rate": "training.learning_rate",
    "learning_decay_rate": "training.learning_decay_rate",
    "learning_decay_steps": "training.learning_decay_steps",
    "save_interval": "training.save_interval",
    "n_epochs": "training.n_epochs",
    "train_batch_size": "training.train_batch_size",
    "eval_batch_size": "training.eval_batch_size",
    "optimizer": "training.optimizer",
    "evaluate_every_epoch": "training.evaluate_every_epoch",
    "restore_model": "restore_model",
    "csv_delimiter": "data.csv_delimiter",
    "string_split_delimiter": "data.string_split_delimiter",
    "data_augmentation": "augmentation.data_augmentation",
    "data_augmentation_max_rotation": "augmentation.data_augmentation_max_rotation",
    "input_data_n_parallel_calls": "data.input_data_n_parallel_calls",
    "keep_prob": "model.keep_prob",
}


def leaf(tree: Configuration, path: str):
    for name in path.split("."):
        tree = getattr(tree, name)
    return tree


def nested(path: str, value) -> dict:
    """Return {"a": {"b": value}} for the key a.b."""
    for name in reversed(path.split(".")):
        value = {name: value}
    return value


def with_leaf(path: str, value) -> dict:
    tree = copy.deepcopy(LEAST)
    *groups, name = path.split(".")
    branch = tree
    for group in groups:
        branch = branch.setdefault(group, {})
    branch[name] = value
    return tree


def refusal(*overrides: str, tree: dict = LEAST) -> str:
    with pytest.raises(UsageError) as caught:
        config.parse(tree, overrides, origin="mine.json")
    assert caught.value.exit_code == 2
    return str(caught.value)
