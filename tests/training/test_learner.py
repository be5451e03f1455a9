"""Training steps, schedules, skipped steps, restored states, and the scores of an evaluation."""

import math
from collections.abc import Iterator
from dataclasses import fields, replace

import pytest
import torch

from raycrnn.bench.host_reads import HostReads
from raycrnn.config import Training
from raycrnn.data import image
from raycrnn.data.alphabet import Alphabet
from raycrnn.data.csv_files import UNKNOWN
from raycrnn.data.rejections import Rejection
from raycrnn.errors import RaycrnnError
from raycrnn.metrics.error_rates import Counts
from raycrnn.model import ctc, runtime
from raycrnn.model.batch import Batch
from raycrnn.model.crnn import CRNN
from raycrnn.training import validation
from raycrnn.training.learner import Learner, TrainingState
from raycrnn.training.optimizer import learning_rate, make_optimizer
from tests.conftest import GLYPHS, draw, words
from tests.devices import DEVICES

CPU = torch.device("cpu")
ALPHABET = Alphabet(tuple(GLYPHS))
SMALL = (8, 16, 32, 32, 48, 48, 48)


def network(seed: int = 0, dropout: float = 0.0) -> CRNN:
    torch.manual_seed(seed)
    return CRNN(len(ALPHABET) + 1, cnn_channels=SMALL, lstm_size=32, dropout=dropout)


def make_batch(labels: list[str], rows: list[int] | None = None) -> Batch:
    images_BCHW, widths_B = image.collate([image.to_array(draw(label)) for label in labels])
    codes = [ALPHABET.encode(label) for label in labels]
    return Batch(
        images_BCHW=torch.from_numpy(images_BCHW),
        widths_B=torch.from_numpy(widths_B),
        codes_S=torch.tensor([code for label in codes for code in label], dtype=torch.int64),
        lengths_B=torch.tensor([len(label) for label in codes]),
        rows_B=torch.tensor(rows or list(range(len(labels)))),
    )


EMPTY = Batch(
    images_BCHW=torch.zeros(1, 1, 32, 16, dtype=torch.uint8),
    widths_B=torch.tensor([8]),
    codes_S=torch.zeros(0, dtype=torch.int64),
    lengths_B=torch.zeros(0, dtype=torch.int64),
    rows_B=torch.zeros(0, dtype=torch.int64),
)


def test_a_tiny_set_is_learnt_within_150_steps():
    """With PyTorch's default initialisation the network still outputs only blanks after 150 steps."""
    batch = make_batch(words(16))
    learner = Learner(network(), Training(learning_rate=3e-3, precision="fp32"), CPU)
    for step in range(150):
        learner.train_step(batch, 150 - step)
    evaluation = validation.evaluate(learner.network, [batch], ALPHABET, "fp32", CPU)
    assert evaluation.counts.accuracy == 1.0


def test_a_request_to_stop_ends_an_evaluation_before_its_next_batch():
    asked = []

    def check_stop() -> bool:
        asked.append(True)
        return len(asked) == 3

    batches = [make_batch(words(2))] * 9
    assert validation.evaluate(network(), batches, ALPHABET, "fp32", CPU, check_stop) is None
    assert len(asked) == 3


@pytest.mark.parametrize("optimizer", ["adamw", "adam", "rms", "ada"])
def test_every_optimizer_lowers_the_loss(optimizer):
    rate = {"ada": 1.0, "rms": 1e-4}.get(optimizer, 1e-3)
    learner = Learner(network(), Training(optimizer=optimizer, learning_rate=rate, precision="fp32"), CPU)
    batch = make_batch(words(8))
    losses = [learner.train_step(batch, 1000).loss for _ in range(12)]
    assert losses[-1] < losses[0]


def test_adam_uses_beta_0_5_and_only_matrices_decay():
    adam = make_optimizer(network(), Training(optimizer="adam"))
    assert adam.param_groups[0]["betas"] == (0.5, 0.999)
    adamw = make_optimizer(network(), Training(weight_decay=0.1))
    decays = {p.ndim >= 2: group["weight_decay"] for group in adamw.param_groups for p in group["params"]}
    assert decays == {True: 0.1, False: 0.0}


def test_the_exponential_schedule_decays_in_steps():
    settings = Training(learning_rate=1e-3, learning_decay_rate=0.5, learning_decay_steps=10)
    rates = [learning_rate(settings, step, 0.0) for step in (0, 9, 10, 25)]
    assert rates == pytest.approx([1e-3, 1e-3, 5e-4, 2.5e-4])


def test_one_cycle_rises_to_its_peak_and_falls_to_zero():
    settings = Training(learning_rate=1e-3, warm_up=0.1)
    rates = [learning_rate(settings, 0, progress / 100) for progress in range(101)]
    assert rates[0] == pytest.approx(4e-5)
    assert max(rates) == pytest.approx(1e-3) == rates[10]
    assert rates[:11] == sorted(rates[:11])
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-9)


def test_the_schedule_ends_with_the_last_step_even_if_the_estimate_changes():
    learner = Learner(network(), Training(precision="fp32"), CPU)
    for steps_left in (100, 7, 6, 5, 3, 2, 1):
        learner.train_step(EMPTY, steps_left)
    assert learner.progress.schedule == pytest.approx(1.0)


def test_steps_without_a_finite_loss_are_skipped_and_twenty_in_a_row_end_the_run():
    learner = Learner(network(), Training(precision="fp32"), CPU)
    good = make_batch(words(4))
    impossible = make_batch(["a"])
    # 40 equal units need 79 frames: the likelihood is 0, the loss infinite.
    impossible = replace(impossible, codes_S=torch.zeros(40, dtype=torch.int64), lengths_B=torch.tensor([40]))
    before = [p.clone() for p in learner.network.parameters()]
    for _ in range(19):
        learner.train_step(impossible, 100)
    assert learner.progress.skipped == learner.progress.bad_steps == 19
    assert all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))
    learner.train_step(good, 100)
    assert (learner.progress.skipped, learner.progress.bad_steps) == (19, 0)
    with pytest.raises(RaycrnnError, match=r"20 steps in a row.*learning_rate.*precision=fp32"):
        for _ in range(20):
            learner.train_step(impossible, 100)


@pytest.mark.parametrize("name", ["adamw", "adam", "rms", "ada"])
def test_a_skipped_step_changes_neither_parameters_nor_the_state_of_the_optimizer(name):
    settings = Training(optimizer=name, precision="fp32")
    impossible = replace(make_batch(["a"]), codes_S=torch.zeros(40, dtype=torch.int64), lengths_B=torch.tensor([40]))
    learner = Learner(network(), settings, CPU)

    def tensors() -> dict[str, torch.Tensor]:
        buffers = {f"network.{name}" for name, _ in learner.network.named_buffers()}
        return {name: tensor.clone() for name, tensor in learner.state_tensors().items() if name not in buffers}

    before = tensors()
    learner.train_step(impossible, 10)
    for name, tensor in tensors().items():
        # An optimizer creates its state, which is 0, in the first step.
        assert torch.equal(tensor, before.get(name, torch.zeros_like(tensor))), name
    learner.train_step(make_batch(words(4)), 10)
    taken = tensors()
    learner.train_step(impossible, 10)
    for name, tensor in tensors().items():
        assert torch.equal(tensor, taken[name]), name
    assert not torch.equal(taken["network.output.weight"], before["network.output.weight"])
    assert learner.progress.skipped == 2


BATCHES = [make_batch(words(count, seed)) for seed, count in enumerate([4, 3, 5, 4])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", ["adamw", "adam", "rms", "ada"])
def test_the_host_reads_from_the_device_once_a_step_after_the_next_step_is_queued(name, device):
    learner = Learner(network(), Training(optimizer=name, precision="fp32"), torch.device(device))
    learner.queue_step(BATCHES[0], 10)
    with HostReads() as queueing:
        learner.queue_step(BATCHES[1], 9)
    with HostReads() as reading:
        learner.read_step()
    assert (queueing.count, reading.count) == (0, 1)


@pytest.mark.parametrize("device", DEVICES)
def test_queueing_a_step_does_not_synchronise_with_a_gpu(device, monkeypatch):
    """PyTorch's CTC loss does, because it copies the lengths to the GPU and waits for that; it is replaced here."""
    monkeypatch.setattr(ctc, "loss", lambda log_probs_TBK, *_: -log_probs_TBK[:, :, -1].sum())
    learner = Learner(network(), Training(precision="fp32"), torch.device(device))
    learner.train_step(BATCHES[0], 10)
    batch = BATCHES[0]
    if device == "cuda":
        batch = Batch(*(getattr(batch, part.name).pin_memory() for part in fields(batch)))
        torch.cuda.set_sync_debug_mode("error")
    try:
        learner.queue_step(batch, 9)
    finally:
        if device == "cuda":
            torch.cuda.set_sync_debug_mode("default")
    assert learner.read_step().samples == len(batch)


def test_host_reads_are_counted():
    numbers = torch.arange(4)
    with HostReads() as reads:
        numbers[numbers > 1].sum().item()
        bool(numbers.any())
        numbers.tolist()
    assert reads.count == 4


def losses_in_the_order_of_the_text_book(settings: Training, steps: int) -> list[float]:
    """Train with PyTorch's optimizer step by step, and read each loss at once."""
    net = runtime.to_device(network(dropout=0.2), CPU)
    groups = [{"params": [p for p in net.parameters() if p.ndim >= 2]}]
    groups.append({"params": [p for p in net.parameters() if p.ndim < 2], "weight_decay": 0.0})
    adamw = torch.optim.AdamW(groups, weight_decay=settings.weight_decay)
    losses, progress = [], 0.0
    for step in range(steps):
        batch = BATCHES[step % len(BATCHES)]
        for group in adamw.param_groups:
            group["lr"] = learning_rate(settings, step, progress)
        torch.manual_seed(hash((settings.seed, step, 0)) & 0x7FFFFFFFFFFFFFFF)
        adamw.zero_grad()
        log_probs_TBK, frames_B = net.train()(batch.images_BCHW, batch.widths_B)
        loss = ctc.loss(log_probs_TBK, frames_B, batch.codes_S, batch.lengths_B) / len(batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), settings.gradient_clip)
        adamw.step()
        losses.append(loss.item())
        progress += (1 - progress) / (steps - step)
    return losses


def test_reading_results_late_changes_no_loss_and_no_weight():
    settings, steps = Training(precision="fp32"), 20
    at_once, late = (Learner(network(dropout=0.2), settings, CPU) for _ in range(2))
    losses_at_once = [at_once.train_step(BATCHES[step % 4], steps - step).loss for step in range(steps)]
    losses_late = []
    for step in range(steps):
        late.queue_step(BATCHES[step % 4], steps - step)
        assert late.next_step == step + 1
        if step:
            losses_late.append(late.read_step().loss)
            assert late.progress.step == step
    losses_late.append(late.read_step().loss)
    assert losses_late == losses_at_once
    assert losses_late == pytest.approx(losses_in_the_order_of_the_text_book(settings, steps), rel=1e-4)
    assert vars(late.progress) == vars(at_once.progress)
    for name, tensor in at_once.state_tensors().items():
        assert torch.equal(tensor, late.state_tensors()[name]), name


def test_the_state_is_not_given_away_before_all_steps_are_read():
    learner = Learner(network(), Training(precision="fp32"), CPU)
    learner.queue_step(EMPTY, 10)
    with pytest.raises(AssertionError, match="lags behind"):
        learner.state_tensors()


def test_gradients_are_divided_by_the_batch_only_after_the_backward_pass():
    """Divided before it, small gradients could become 0 in numbers of low precision."""

    def gradients(labels: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
        learner = Learner(network(), Training(gradient_clip=None, precision="fp32"), CPU)
        largest = []
        learner.network.output.register_full_backward_hook(
            lambda module, inputs, outputs: largest.append(outputs[0].abs().max())
        )
        learner.train_step(make_batch(labels), 10)
        return largest[0], torch.cat([p.grad.flatten() for p in learner.network.parameters()])

    (one_in_pass, one), (many_in_pass, many) = gradients(["abc"]), gradients(["abc"] * 16)
    assert torch.allclose(one_in_pass, many_in_pass, rtol=1e-3)
    assert (one - many).norm() < 1e-3 * one.norm()


def test_gradients_are_clipped():
    learner = Learner(network(), Training(gradient_clip=1e-3, precision="fp32"), CPU)
    learner.train_step(make_batch(words(4)), 10)
    norm = torch.sqrt(sum(p.grad.square().sum() for p in learner.network.parameters()))
    assert norm.item() == pytest.approx(1e-3, rel=1e-3)


def test_the_seed_determines_the_weights():
    def weights(seed: int) -> torch.Tensor:
        learner = Learner(network(dropout=0.5), Training(seed=seed, precision="fp32"), CPU)
        for _ in range(3):
            learner.train_step(make_batch(words(4)), 10)
        return torch.cat([p.flatten() for p in learner.network.parameters()])

    assert torch.equal(weights(1), weights(1))
    assert not torch.equal(weights(1), weights(2))


@pytest.mark.parametrize("device", DEVICES)
def test_training_from_a_restored_state_gives_identical_weights(device):
    batches = [make_batch(words(6, seed)) for seed in range(8)]

    def steps(learner: Learner, some: list[Batch]) -> None:
        for batch in some:
            learner.train_step(batch, 8 - learner.progress.step)

    settings = Training(precision="fp32")
    straight = Learner(network(dropout=0.3), settings, torch.device(device))
    steps(straight, batches)
    first = Learner(network(dropout=0.3), settings, torch.device(device))
    steps(first, batches[:4])
    second = Learner(network(seed=9, dropout=0.3), settings, torch.device(device))
    # As in a file, which does not keep the memory layout.
    stored = {
        name: tensor.clone(memory_format=torch.contiguous_format) for name, tensor in first.state_tensors().items()
    }
    second.load_state_tensors(stored)
    second.progress = TrainingState(**vars(first.progress))
    for name, tensor in first.state_tensors().items():
        assert torch.equal(tensor, second.state_tensors()[name]), name
    steps(second, batches[4:])
    for name, tensor in straight.state_tensors().items():
        # Some kernels of GPUs add in any order.
        tolerance = 0 if device == "cpu" else 1e-4
        assert torch.allclose(tensor, second.state_tensors()[name], rtol=tolerance, atol=tolerance), name


FINE_TUNING = {"precision": "fp32", "initial_model": "model", "initial_model_sha256": "0", "initial_layers_rate": 0.1}


def test_frozen_convolutions_keep_weights_and_statistics_while_the_others_learn():
    learner = Learner(network(), Training(**FINE_TUNING, frozen_convolutions=5), CPU)
    before = {name: tensor.clone() for name, tensor in learner.network.state_dict().items()}
    for seed in range(2):
        learner.train_step(make_batch(words(4, seed)), 2)
    for name, tensor in learner.network.state_dict().items():
        parts = name.split(".")
        frozen = parts[0] == "convolutions" and int(parts[1]) < 5
        assert torch.equal(tensor, before[name]) is frozen, name
    # The running statistics of the third and the fifth convolution are among them, those of the seventh are not.
    assert [learner.network.convolutions[i].norm.num_batches_tracked.item() for i in (2, 4, 6)] == [0, 0, 2]


@pytest.mark.parametrize("name", ["adamw", "adam", "rms", "ada"])
def test_the_layers_of_an_initial_model_have_a_fraction_of_the_learning_rate(name):
    settings = Training(**FINE_TUNING, optimizer=name, schedule="exponential", learning_rate=0.02)
    learner = Learner(network(), settings, CPU)
    learner.train_step(make_batch(words(4)), 10)
    rates = {parameter: group["lr"] for group in learner.optimizer.param_groups for parameter in group["params"]}
    for part, parameter in learner.network.named_parameters():
        assert rates[parameter] == pytest.approx(0.02 if part.startswith("output.") else 0.002), part
    decayed = {id(p) for group in learner.optimizer.param_groups if group["weight_decay"] for p in group["params"]}
    assert decayed == ({id(p) for p in rates if p.ndim >= 2} if name == "adamw" else set())


def test_the_first_adam_step_of_these_layers_is_that_fraction_of_a_full_one():
    def steps(**settings: object) -> dict[str, torch.Tensor]:
        learner = Learner(network(), Training(**{**FINE_TUNING, **settings}, weight_decay=0.0), CPU)
        before = {name: tensor.detach().clone() for name, tensor in learner.network.named_parameters()}
        learner.train_step(make_batch(words(4)), 10)
        return {name: tensor.detach() - before[name] for name, tensor in learner.network.named_parameters()}

    whole, tenth = steps(initial_layers_rate=1.0), steps()
    for name in whole:
        factor = 1.0 if name.startswith("output.") else 0.1
        assert torch.allclose(tenth[name], factor * whole[name], rtol=1e-2, atol=1e-7), name


def test_the_state_of_a_different_network_is_refused():
    learner = Learner(network(), Training(precision="fp32"), CPU)
    other = Learner(CRNN(5, cnn_channels=SMALL, lstm_size=32), Training(precision="fp32"), CPU)
    with pytest.raises(RaycrnnError, match="different network"):
        learner.load_state_tensors(other.state_tensors())


@pytest.mark.parametrize("device", DEVICES)
def test_an_empty_batch_changes_no_weights_but_counts_as_a_step(device):
    learner = Learner(network(), Training(precision="fp32", weight_decay=0.0), torch.device(device))
    before = [p.clone() for p in learner.network.parameters()]
    step = learner.train_step(EMPTY, 10)
    assert step.samples == 0
    assert learner.progress.step == 1
    assert all(torch.equal(a, b) for a, b in zip(before, learner.network.parameters(), strict=True))


@pytest.mark.parametrize("device", DEVICES)
def test_empty_labels_are_trained_and_evaluated_on(device):
    batch = replace(
        make_batch(["ab", "cab"]), codes_S=torch.zeros(0, dtype=torch.int64), lengths_B=torch.tensor([0, 0])
    )
    learner = Learner(network(), Training(precision="fp32"), torch.device(device))
    with torch.no_grad():
        log_probs_TBK, frames_B = runtime.to_device(network(), CPU)(batch.images_BCHW, batch.widths_B)
    # The only alignment of an empty label has a blank in every frame.
    blanks = [log_probs_TBK[:frames, i, -1].sum().item() for i, frames in enumerate(frames_B)]
    assert learner.train_step(batch, 10).loss == pytest.approx(-sum(blanks) / 2, rel=1e-3)
    assert learner.progress.skipped == 0
    result = validation.evaluate(learner.network, [batch], ALPHABET, "fp32", torch.device(device))
    assert (result.counts.samples, result.counts.units) == (2, 0)
    assert math.isfinite(result.loss)


class Rejecting:
    """Evaluation batches without a sample that could not be read."""

    problem = None

    def __init__(self) -> None:
        self.rejected = {1: Rejection("eval.csv", 2, "1.png", "damaged image", "truncated")}

    def __iter__(self) -> Iterator[Batch]:
        yield make_batch(["abc"], rows=[0])
        yield EMPTY
        yield make_batch(["de"], rows=[2])


@pytest.mark.parametrize("device", DEVICES)
def test_an_image_that_cannot_be_read_is_left_out_of_every_evaluation(device):
    batches, net = validation.EvaluationBatches(Rejecting), runtime.to_device(network(), torch.device(device))
    for _ in range(2):
        result = validation.evaluate(net, batches, ALPHABET, "fp32", torch.device(device))
        assert (result.counts.samples, list(batches.rejected)) == (2, [1])


def test_unknown_units_count_as_errors_but_not_in_the_loss():
    batch = make_batch(["abc", "de"])
    with_unknown = Batch(
        batch.images_BCHW, batch.widths_B, torch.tensor([0, UNKNOWN, 2, 3, 4]), batch.lengths_B, batch.rows_B
    )
    net = network().eval()
    plain = validation.evaluate(net, [make_batch(["de"])], ALPHABET, "fp32", CPU)
    evaluation = validation.evaluate(net, [with_unknown, EMPTY], ALPHABET, "fp32", CPU)
    assert evaluation.counts.samples == 2
    assert evaluation.counts.units == 5
    assert evaluation.loss == pytest.approx(plain.loss, rel=1e-3)
    assert evaluation.counts.exact == 0
    assert evaluation.examples[0].reference == "a\0c"


def test_the_best_evaluation_has_the_lowest_cer_then_the_lowest_loss_then_is_the_latest():
    def result(edits: int, loss: float) -> validation.ValidationResult:
        return validation.ValidationResult(Counts(1, 0, edits, 10, 0, 1), loss)

    best = result(3, 1.0).scores()
    assert result(2, 9.0).better_than(best)
    assert result(3, 0.5).better_than(best)
    assert result(3, 1.0).better_than(best)
    assert not result(3, 1.1).better_than(best)
    assert not result(4, 0.1).better_than(best)
    assert not result(10, math.inf).better_than({})


def test_auto_precision_depends_on_the_processor():
    assert runtime.resolve_precision("fp32", CPU) == "fp32"
    assert runtime.resolve_precision("bf16", CPU) == "bf16"
    native = any(torch.cpu.get_capabilities().get(name) for name in ("avx512_bf16", "amx_bf16", "bf16"))
    assert runtime.resolve_precision("auto", CPU) == ("bf16" if native else "fp32")


def test_a_diverged_network_is_never_the_best():
    diverged = network()
    for parameter in diverged.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    batches = [make_batch(["ab", "a"])]
    found = validation.evaluate(diverged, batches, ALPHABET, "fp32", CPU)
    assert found.loss == float("inf")
    assert not found.better_than({"cer": found.counts.cer, "loss": 50.0})
