"""The network: shapes, padding, normalisation and initialisation."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from raycrnn.config import Image, Model
from raycrnn.data.image import MIN_WIDTH, frames
from raycrnn.model import ctc, runtime
from raycrnn.model.crnn import CRNN, reversal, standardise
from tests.devices import DEVICES

TINY = (8, 8, 16, 16, 16, 16, 16)


def tiny(height: int = 32, channels: int = 1, classes: int = 7) -> CRNN:
    torch.manual_seed(0)
    network = CRNN(classes, channels, height, TINY, lstm_size=12)
    # Statistics as after some training, so that errors of the normalisation have an effect.
    for buffer in network.buffers():
        if buffer.is_floating_point():
            buffer.copy_(torch.rand_like(buffer) + 0.5)
    # Without biases, few values pass the last ReLUs, and all outputs are similar.
    for layer in network.convolutions:
        (layer.norm or layer.convolution).bias.data.normal_()
    return network


def images(widths: list[int], height: int = 32, channels: int = 1, padded: int | None = None) -> torch.Tensor:
    """Return random images, whose padding is noise that must have no influence."""
    generator = torch.Generator().manual_seed(1)
    width = padded or max(widths)
    return torch.randint(0, 256, (len(widths), channels, height, width), generator=generator, dtype=torch.uint8)


def test_full_network_has_the_parameters_of_tf_crnn():
    network = CRNN(80)
    convolutions = [(1, 64, 3), (64, 128, 3), (128, 256, 3), (256, 256, 3), (256, 512, 3), (512, 512, 3), (512, 512, 2)]
    expected = sum(i * o * k * k for i, o, k in convolutions)
    expected += 64 + 128 + 256 + 512  # biases of the convolutions without batch normalisation
    expected += 2 * (256 + 512 + 512)  # scales and biases of batch normalisation
    for inputs in (512, 512):
        expected += 2 * 4 * 256 * (inputs + 256 + 2)
    expected += 512 * 80 + 80
    assert sum(parameter.numel() for parameter in network.parameters()) == expected


@pytest.mark.parametrize(("height", "channels"), [(32, 1), (32, 3), (48, 1), (64, 3)])
def test_log_probs_have_one_frame_per_four_pixels_less_one(height, channels):
    network = tiny(height, channels).eval()
    log_probs, frames_B = network(images([8, 33, 100], height, channels), torch.tensor([8, 33, 100]))
    assert log_probs.shape == (frames(100), 3, 7)
    assert frames_B.tolist() == [frames(8), frames(33), frames(100)] == [1, 7, 24]
    assert torch.allclose(log_probs.exp().sum(2), torch.ones(()), atol=1e-5)


@given(st.lists(st.integers(MIN_WIDTH, 90), min_size=2, max_size=4), st.integers(0, 40))
def test_transcription_does_not_depend_on_its_batch(widths, extra):
    network = tiny().eval()
    batch = images(widths, padded=max(widths) + extra)
    with torch.no_grad():
        together, frames_B = network(batch, torch.tensor(widths))
        for i, width in enumerate(widths):
            alone, _ = network(batch[i : i + 1, :, :, :width], torch.tensor([width]))
            assert torch.allclose(alone[:, 0], together[: frames_B[i], i], atol=1e-4)


def test_padding_does_not_influence_batch_statistics():
    batch = images([40, 40])
    padded = torch.nn.functional.pad(batch, (0, 56), value=255)
    plain, other = tiny().train(), tiny().train()
    plain(batch, torch.tensor([40, 40]))
    other(padded, torch.tensor([40, 40]))
    for name, buffer in plain.named_buffers():
        assert torch.allclose(buffer, dict(other.named_buffers())[name], atol=1e-4), name


def test_a_single_image_of_one_frame_can_be_trained_on():
    """The last normalisation has one pixel, which PyTorch's rejects in training."""
    log_probs, _ = tiny().train()(images([8]), torch.tensor([8]))
    assert torch.isfinite(log_probs).all()


def test_reversal_reverses_each_sequence_within_its_length():
    assert reversal(torch.tensor([3, 1, 4]), 4).tolist() == [[2, 1, 0, 3], [0, 1, 2, 3], [3, 2, 1, 0]]


def test_backward_lstm_reads_each_sequence_from_its_own_end():
    from raycrnn.model.crnn import BidirectionalLSTM

    torch.manual_seed(0)
    layer = BidirectionalLSTM(5, 4)
    x = torch.randn(3, 6, 5)
    lengths = torch.tensor([6, 2, 4])
    out = layer(x, lengths)
    packed = torch.nn.utils.rnn.pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
    reference = torch.nn.LSTM(5, 4, batch_first=True, bidirectional=True)
    for mine, theirs in ((layer.forwards, ""), (layer.backwards, "_reverse")):
        for name, parameter in mine.named_parameters():
            getattr(reference, name + theirs).data.copy_(parameter)
    expected, _ = torch.nn.utils.rnn.pad_packed_sequence(reference(packed)[0], batch_first=True)
    for i, length in enumerate(lengths):
        assert torch.allclose(out[i, :length], expected[i, :length], atol=1e-6)


@pytest.mark.parametrize("device", DEVICES)
def test_lstms_do_not_compute_in_float16(device):
    """PyTorch's autocast to bfloat16 runs the LSTM of cuDNN in float16, in which these gradients would be 0."""
    network = tiny().train().to(device)
    dtypes = []
    for module in network.modules():
        if isinstance(module, torch.nn.LSTM):
            module.register_forward_hook(lambda module, inputs, outputs: dtypes.append(outputs[0].dtype))
    batch, widths = images([40, 33]).to(device), torch.tensor([40, 33], device=device)
    exact, _ = network(batch, widths)
    with runtime.autocast("bf16", torch.device(device)):
        log_probs, _ = network(batch, widths)
    assert set(dtypes) <= {torch.float32, torch.bfloat16} - ({torch.bfloat16} if device == "cuda" else set())
    assert torch.allclose(log_probs, exact, atol=0.2)
    (log_probs[:, :, 0].sum() * 1e-12).backward()
    for name, parameter in network.lstms.named_parameters():
        assert parameter.grad.abs().max() > 0, name


def outputs_and_gradients(device: str, precision: str) -> dict[str, torch.Tensor]:
    """Return the log-probabilities of a batch and the gradients of its loss."""
    network = runtime.to_device(tiny().train(), torch.device(device))
    widths_B, lengths_B, codes_S = torch.tensor([40, 33, 8]), torch.tensor([3, 2, 1]), torch.tensor([1, 1, 2, 0, 4, 5])
    with runtime.autocast(precision, torch.device(device)):
        log_probs_TBK, _ = network(images([40, 33, 8]).to(device), widths_B.to(device))
    ctc.loss(log_probs_TBK, network.frames(widths_B), codes_S.to(device), lengths_B).backward()
    found = {name: parameter.grad.cpu() for name, parameter in network.named_parameters()}
    return {"log_probs": log_probs_TBK.detach().cpu(), **found}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 1e-3), ("bf16", 0.4)])
def test_outputs_and_gradients_are_those_of_a_cpu_in_float32(device, precision, tolerance):
    # In float32, and not in TensorFloat-32.
    with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
        found = outputs_and_gradients(device, precision)
    for name, expected in outputs_and_gradients("cpu", "fp32").items():
        assert (found[name] - expected).norm() <= tolerance * expected.norm(), name


def test_the_number_of_frames_is_known_before_the_network_has_run():
    widths_B = torch.arange(MIN_WIDTH, 60)
    assert tiny().frames(widths_B).tolist() == [frames(width) for width in widths_B.tolist()]


def test_standardise_gives_mean_0_and_deviation_1_and_keeps_empty_images_empty():
    batch = images([30, 17])
    batch[1] = 200
    out = standardise(batch, torch.tensor([30, 17]))
    assert out[0].mean().abs() < 1e-5
    assert out[0].std(correction=0).item() == pytest.approx(1, abs=1e-4)
    assert (out[1] == 0).all()


def test_initial_weights_are_orthogonal_with_a_forget_bias_of_one():
    lstm = tiny().lstms[0].forwards
    for gate in lstm.weight_hh_l0.detach().chunk(4):
        assert torch.allclose(gate @ gate.T, torch.eye(12), atol=1e-5)
    bias = (lstm.bias_ih_l0 + lstm.bias_hh_l0).detach().chunk(4)
    assert [b.unique().tolist() for b in bias] == [[0.0], [1.0], [0.0], [0.0]]


def test_the_network_follows_the_settings():
    network = CRNN.from_settings(Model(size="quarter", lstm_size=32, lstm_layers=3, keep_prob=0.9), Image(), 11)
    assert [layer.convolution.out_channels for layer in network.convolutions] == [16, 32, 64, 64, 128, 128, 128]
    assert len(network.lstms) == 3
    assert network.lstms[0].forwards.hidden_size == 32
    assert network.dropout.p == pytest.approx(0.1)
