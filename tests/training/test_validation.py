"""Evaluation during training in parts, whose outputs have a limited size."""

import weakref
from collections.abc import Sequence

import pytest
import torch

from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.model.batch import Batch
from raycrnn.model.crnn import CRNN
from raycrnn.training import validation

CPU = torch.device("cpu")
ALPHABET = Alphabet(tuple("abcdef"))


def make_batch(labels: Sequence[Sequence[int]], width: int = 72, seed: int = 0) -> Batch:
    """Return a batch of random images, of which each is 4 pixels wider than the one before it."""
    random = torch.Generator().manual_seed(seed)
    return Batch(
        images_BCHW=torch.randint(256, (len(labels), 1, 32, width), dtype=torch.uint8, generator=random),
        widths_B=torch.arange(len(labels)) * 4 + width - 4 * (len(labels) - 1),
        codes_S=torch.tensor([code for label in labels for code in label], dtype=torch.int64),
        lengths_B=torch.tensor([len(label) for label in labels]),
        rows_B=torch.arange(len(labels)),
    )


class Outputs:
    """Records the outputs of a network."""

    def __init__(self, network: CRNN):
        self.sizes: list[int] = []
        """The size of each output in bytes."""
        self.alive: list[int] = []
        """How many outputs are in memory after each one."""
        self._references: list[weakref.ref[torch.Tensor]] = []
        network.register_forward_hook(self._add)

    def _add(self, network: CRNN, inputs: tuple, outputs: tuple[torch.Tensor, torch.Tensor]) -> None:
        self.sizes.append(outputs[0].nbytes)
        self._references.append(weakref.ref(outputs[0]))
        self.alive.append(sum(reference() is not None for reference in self._references))


def network() -> CRNN:
    torch.manual_seed(0)
    return CRNN(len(ALPHABET) + 1, cnn_channels=(4, 4, 8, 8, 8, 8, 8), lstm_size=16)


@pytest.mark.parametrize("size", [1, 2, 3, 5, 9])
def test_the_parts_of_a_batch_have_its_samples_in_order(size):
    batch = make_batch([(0, 1), (), (2,), (3, 3, 4), (5,)])
    parts = batch.split(size)
    assert [len(part) for part in parts] == [min(size, 5 - first) for first in range(0, 5, size)]
    assert [label for part in parts for label in part.labels()] == batch.labels()
    for name in ("images_BCHW", "widths_B", "codes_S", "lengths_B", "rows_B"):
        assert torch.equal(torch.cat([getattr(part, name) for part in parts]), getattr(batch, name))


def test_scores_do_not_depend_on_the_parts(monkeypatch):
    batches = [make_batch([(0, 1), (), (2,), (3, 3, 4), (5,)]), make_batch([(1,), (2, 4)], seed=1)]
    net = network()
    outputs = Outputs(net)
    whole = validation.evaluate(net, batches, ALPHABET, "fp32", CPU)
    assert len(outputs.sizes) == 2
    of_two_samples = 2 * 4 * image.frames(72) * (len(ALPHABET) + 1)
    monkeypatch.setattr(validation, "MAX_OUTPUT_BYTES", of_two_samples)
    parts = validation.evaluate(net, batches, ALPHABET, "fp32", CPU)
    assert outputs.sizes[2:] == [of_two_samples, of_two_samples, of_two_samples // 2, of_two_samples]
    assert parts.counts == whole.counts
    assert parts.loss == pytest.approx(whole.loss, rel=1e-5)
    assert parts.calibration.samples == 7
    assert parts.calibration.weights == pytest.approx(whole.calibration.weights, abs=1e-3)
    assert [each.reference for each in parts.examples] == [each.reference for each in whole.examples]


@pytest.mark.parametrize("bias", [-50.0, 50.0])
def test_a_result_says_whether_the_network_outputs_only_blanks(bias):
    net = network()
    torch.nn.init.constant_(net.output.bias[ALPHABET.blank :], bias)
    result = validation.evaluate(net, [make_batch([(0, 1), (2,)]), make_batch([(3,)])], ALPHABET, "fp32", CPU)
    assert result.is_blank == (bias > 0)


@pytest.mark.parametrize(("units", "parts"), [(80, 1), (8_000, 4), (200_000, 64)])
def test_the_outputs_of_a_part_have_a_limited_size_for_every_alphabet(units, parts):
    # 64 lines of 1,000 pixels, by the sizes alone: their outputs would have 510 MB with 8,000 units.
    batch = make_batch([()] * 64, width=1000)
    split = list(validation._parts([batch], units + 1))
    bytes_of_a_line = 249 * (units + 1) * 4
    assert len(split) == parts
    assert sum(map(len, split)) == 64
    assert all(len(part) * bytes_of_a_line <= max(validation.MAX_OUTPUT_BYTES, bytes_of_a_line) for part in split)


def test_the_outputs_of_one_part_at_a_time_are_in_memory(monkeypatch):
    monkeypatch.setattr(validation, "MAX_OUTPUT_BYTES", 1)
    net = network()
    outputs = Outputs(net)
    validation.evaluate(net, [make_batch([(0,), (1,), (2,)])], ALPHABET, "fp32", CPU)
    assert outputs.alive == [1, 1, 1]
