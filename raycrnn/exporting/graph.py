"""The network of a model as a graph of torch.export."""

import copy
import functools
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from raycrnn.data import image
from raycrnn.model.crnn import CRNN
from raycrnn.model.recognizer import Recognizer


def trace(recognizer: Recognizer) -> torch.export.ExportedProgram:
    """Return the network's graph for any batch size and width, with each LSTM as one node of `lstm_node`."""
    settings = recognizer.configuration.image
    images_BCHW = torch.zeros(2, settings.input_channels, settings.input_shape[0], 64, dtype=torch.uint8)
    widths_B = torch.tensor([64, 50])
    batch = torch.export.Dim("batch", min=1)
    # Not a named Dim: torch would have to prove that a quarter of 8 pixels or more is not 1, and cannot.
    width = torch.export.Dim.AUTO(min=image.MIN_WIDTH)
    with torch.no_grad():
        return torch.export.export(
            Exported(recognizer.network), (images_BCHW, widths_B), dynamic_shapes=({0: batch, 3: width}, {0: batch})
        )


class Exported(nn.Module):
    """A copy of a network that can be traced for any batch size and width."""

    def __init__(self, network: CRNN):
        super().__init__()
        # Contiguous: the memory format of training would be exported with the weights.
        self.network = copy.deepcopy(network).eval()
        # torch's annotation of Module.to lacks memory_format without a tensor.
        self.network.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
        for name, module in list(self.network.named_modules()):
            if isinstance(module, nn.LSTM):
                self.network.set_submodule(name, OneNodeLSTM(module))

    def forward(self, images: Tensor, widths: Tensor) -> tuple[Tensor, Tensor]:
        # One frame more, which is removed again: the tracer would specialise a dimension that may be 1, and pooling
        # drops the last column of an odd width unless there is padding after it, as in a batch.
        # Concatenated, because the ONNX operator Pad in opset 18 is the only one here that needs more than opset 16.
        padded = torch.cat([images, torch.zeros_like(images[:, :, :, :4])], dim=3)
        log_probs_TBK, frames_B = self.network(padded, widths)
        return log_probs_TBK[:-1], frames_B


class OneNodeLSTM(nn.Module):
    """An LSTM that the tracer keeps as one node, whereas it unrolls that of torch over the frames of the example."""

    def __init__(self, lstm: nn.LSTM):
        super().__init__()
        self.lstm = lstm

    def forward(self, x_BTD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        lstm = self.lstm
        zeros_1BU = x_BTD.new_zeros(1, x_BTD.shape[0], lstm.hidden_size)
        weights = [lstm.weight_ih_l0, lstm.weight_hh_l0, lstm.bias_ih_l0, lstm.bias_hh_l0]
        return lstm_node()(x_BTD, [zeros_1BU, zeros_1BU], weights, True, 1, 0.0, False, False, True)


@functools.cache
def lstm_node() -> Callable[..., tuple[Tensor, Tensor, Tensor]]:
    """Return an operator with the arguments of torch's aten.lstm.input that a tracer only knows the shapes of."""

    @torch.library.custom_op("raycrnn::lstm", mutates_args=())
    def lstm(
        input: Tensor,
        hx: Sequence[Tensor],
        params: Sequence[Tensor],
        has_biases: bool,
        num_layers: int,
        dropout: float,
        train: bool,
        bidirectional: bool,
        batch_first: bool,
    ) -> tuple[Tensor, Tensor, Tensor]:
        # Never run: the tracer asks for shapes (below), and the exported file contains aten's or ONNX's LSTM instead.
        raise NotImplementedError("this operator only exists in graphs")

    @lstm.register_fake
    def _(input: Tensor, hx: Sequence[Tensor], *_: object) -> tuple[Tensor, Tensor, Tensor]:
        output_BTU = input.new_empty(*input.shape[:2], hx[0].shape[2])
        return output_BTU, torch.empty_like(hx[0]), torch.empty_like(hx[1])

    return torch.ops.raycrnn.lstm.default
