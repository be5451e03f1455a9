"""The convolutional recurrent neural network (CRNN) of Shi, Bai and Yao (2015, arXiv:1507.05717).

Tensor names end in their shape: B batch, C channels, H height, W width, T frames, D features, K classes. `widths_B` are
the widths of the images without padding. The padding on the right of an image does not influence its result.
"""

from typing import Self

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycrnn.config import Image, Model
from raycrnn.data.image import frames
from raycrnn.model.batch_norm import MaskedBatchNorm
from raycrnn.model.dropout import Dropout

POOLS = ((2, 2), (2, 2), None, (2, 1), None, (2, 1), None)
"""(height, width) of the max pooling after each convolution; as in the paper, after the convolutions 1, 2, 4 and 6."""

NORMALISED = (False, False, True, False, True, False, True)
"""Whether each convolution is followed by batch normalisation: the convolutions 3, 5 and 7 are."""


class CRNN(nn.Module):
    """Seven convolutions, bidirectional LSTM layers, and a linear layer.

    Args:
        classes: Number of classes K: the units and the CTC blank, which is the last class.
        input_channels: 1 (grey) or 3 (RGB).
        height: Height of the images in pixels, a multiple of 16 and at least 32.
        cnn_channels: Output channels of the seven convolutions.
        lstm_size: Hidden units of each direction of an LSTM layer.
        lstm_layers: Number of bidirectional LSTM layers.
        dropout: Dropout probability before and between the LSTM layers and before the linear layer.
        initialised: Whether to initialise the weights for training; False if they are loaded afterwards.
    """

    def __init__(
        self,
        classes: int,
        input_channels: int = 1,
        height: int = 32,
        cnn_channels: tuple[int, ...] = (64, 128, 256, 256, 512, 512, 512),
        lstm_size: int = 256,
        lstm_layers: int = 2,
        dropout: float = 0.0,
        initialised: bool = True,
    ):
        super().__init__()
        inputs = (input_channels, *cnn_channels)
        self.convolutions = nn.ModuleList(
            ConvolutionLayer(inputs[i], inputs[i + 1], NORMALISED[i], POOLS[i], last=i == 6) for i in range(7)
        )
        self.height = height
        features = cnn_channels[-1] * _feature_rows(height)
        self.lstms = nn.ModuleList(
            BidirectionalLSTM(features if i == 0 else 2 * lstm_size, lstm_size) for i in range(lstm_layers)
        )
        self.output = nn.Linear(2 * lstm_size, classes)
        self.dropout = Dropout(dropout)
        self._frozen = 0
        if initialised:
            initialise(self)

    @classmethod
    def from_settings(cls, model: Model, image: Image, classes: int, initialised: bool = True) -> "CRNN":
        """Return a network for a configuration and a number of classes."""
        return cls(
            classes=classes,
            input_channels=image.input_channels,
            height=image.input_shape[0],
            cnn_channels=model.channels,
            lstm_size=model.lstm_units,
            lstm_layers=model.lstm_layers,
            dropout=1 - model.keep_prob,
            initialised=initialised,
        )

    def freeze_convolutions(self, count: int) -> None:
        """Exclude the first convolutions from training, with the running statistics of their batch normalisation."""
        self._frozen = count
        self.convolutions[:count].requires_grad_(False)

    def train(self, mode: bool = True) -> Self:
        """Set the mode of all layers, except that frozen convolutions always compute as in evaluation."""
        super().train(mode)
        self.convolutions[: self._frozen].eval()
        return self

    def forward(self, images_BCHW: Tensor, widths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the log-probabilities of the classes in each frame.

        Args:
            images_BCHW: Grey or RGB values 0 … 255 of any dtype.
            widths_B: Width of each image in pixels without padding, int64, at least 8.

        Returns:
            log_probs_TBK, float32, with T = W // 4 − 1, and frames_B, the number of frames of each image. Later frames
            belong to its padding.
        """
        x_BCHW = standardise(images_BCHW, widths_B)
        for convolution in self.convolutions:
            x_BCHW, widths_B = convolution(x_BCHW, widths_B)
        x_BTD = x_BCHW.flatten(1, 2).transpose(1, 2)
        for lstm in self.lstms:
            x_BTD = lstm(self.dropout(x_BTD), widths_B)
        logits_BTK = self.output(self.dropout(x_BTD))
        return F.log_softmax(logits_BTK.float(), dim=-1).transpose(0, 1), widths_B

    def frames(self, widths_B: Tensor) -> Tensor:
        """Return the number of frames of images, on the device of their widths."""
        for convolution in self.convolutions:
            assert isinstance(convolution, ConvolutionLayer)
            _, widths_B = convolution.widths(widths_B)
        return widths_B


def _feature_rows(height: int) -> int:
    """Return the height of what the convolutions return for images of a height in pixels."""
    return height // 16 - 1


def output_bytes(width: int, classes: int) -> int:
    """Return the size in bytes of the log-probabilities of an image, float32 [T, K], given its width in pixels."""
    return 4 * frames(width) * classes


def standardise(images_BCHW: Tensor, widths_B: Tensor) -> Tensor:
    """Scale each image to mean 0 and standard deviation 1 over its pixels; return float32, with padding 0."""
    mask_B11W = width_mask(widths_B, images_BCHW.shape[-1])
    images_BCHW = images_BCHW.float() * mask_B11W
    # At least 1: an image of width 0 stands for a share without samples in training.
    pixels_B = (widths_B * images_BCHW.shape[1] * images_BCHW.shape[2]).clamp(min=1)
    mean_B = images_BCHW.sum((1, 2, 3)) / pixels_B
    centred_BCHW = (images_BCHW - mean_B.view(-1, 1, 1, 1)) * mask_B11W
    variance_B = centred_BCHW.square().sum((1, 2, 3)) / pixels_B
    # A deviation below one grey level is noise, which must not be amplified to full contrast in an empty image.
    return centred_BCHW / variance_B.sqrt().clamp(min=1).view(-1, 1, 1, 1)


def width_mask(widths_B: Tensor, width: int) -> Tensor:
    """Return float32 [B, 1, 1, W]: 1 within the width of each image, 0 in its padding."""
    columns_W = torch.arange(width, device=widths_B.device)
    return (columns_W < widths_B[:, None]).float()[:, None, None, :]


class ConvolutionLayer(nn.Module):
    """Convolution, batch normalisation, ReLU and pooling.

    The padding is set to zero, like the pixels beyond the edge of an image that is alone in its batch.
    """

    def __init__(self, inputs: int, outputs: int, normalised: bool, pool: tuple[int, int] | None, last: bool):
        super().__init__()
        self.last = last
        self.pool = pool
        # Batch normalisation adds a bias.
        self.convolution = nn.Conv2d(inputs, outputs, 2 if last else 3, padding=0 if last else 1, bias=not normalised)
        self.norm = MaskedBatchNorm(outputs) if normalised else None

    def widths(self, widths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the widths of images after the convolution and after the pooling."""
        convolved_B = widths_B - 1 if self.last else widths_B
        return convolved_B, convolved_B if self.pool is None else convolved_B // self.pool[1]

    def forward(self, x_BCHW: Tensor, widths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return the layer's output and the widths in it."""
        convolved_B, pooled_B = self.widths(widths_B)
        x_BCHW = self.convolution(x_BCHW)
        if self.norm is not None:
            x_BCHW = self.norm(x_BCHW, width_mask(convolved_B, x_BCHW.shape[-1]).bool())
        # Pooling before ReLU has the same result and gradient as after it, and leaves ReLU fewer values.
        if self.pool is not None:
            x_BCHW = F.max_pool2d(x_BCHW, self.pool)
        # After pooling, which merges the last column of an odd width with padding: alone, an image lacks that column.
        # Autograd need not know, because ReLU passes no gradient to the zeros.
        x_BCHW.detach().mul_(width_mask(pooled_B, x_BCHW.shape[-1]).to(x_BCHW.dtype))
        return F.relu_(x_BCHW), pooled_B


class BidirectionalLSTM(nn.Module):
    """Two LSTMs, of which one reads each sequence backwards from its end, without padding."""

    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.forwards = nn.LSTM(inputs, units, batch_first=True)
        self.backwards = nn.LSTM(inputs, units, batch_first=True)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """Return [B, T, 2 × units] for x_BTD; steps beyond a sequence's length do not influence those within it."""
        # Reversed by a gather, because packed sequences cannot be exported.
        steps_BT = reversal(lengths_B, x_BTD.shape[1])
        forwards_BTU = _run_lstm(self.forwards, x_BTD)
        backwards_BTU = _run_lstm(self.backwards, _take(x_BTD, steps_BT))
        return torch.cat([forwards_BTU, _take(backwards_BTU, steps_BT)], dim=2)


def _run_lstm(lstm: nn.LSTM, x_BTD: Tensor) -> Tensor:
    if x_BTD.device.type == "cpu":
        return lstm(x_BTD)[0]
    # On GPUs, autocast to any type runs cuDNN's LSTM in float16 (torch 2.13, ATen/cudnn/AutocastRNN.cpp), in which
    # gradients below 6e-8 become 0.
    with torch.autocast(x_BTD.device.type, enabled=False):
        return lstm(x_BTD.float())[0]


def reversal(lengths_B: Tensor, steps: int) -> Tensor:
    """Return indices [B, T] that reverse the first `length` steps of each sequence and keep the others."""
    steps_1T = torch.arange(steps, device=lengths_B.device)[None]
    lengths_B1 = lengths_B[:, None]
    return torch.where(steps_1T < lengths_B1, lengths_B1 - 1 - steps_1T, steps_1T)


def _take(x_BTD: Tensor, steps_BT: Tensor) -> Tensor:
    return x_BTD.gather(1, steps_BT[:, :, None].expand(-1, -1, x_BTD.shape[2]))


FIRST_LSTM_INPUTS = ("lstms.0.forwards.weight_ih_l0", "lstms.0.backwards.weight_ih_l0")
"""The weights whose number depends on the height of the images."""


def weights_for_height(tensors: dict[str, Tensor], height: int) -> dict[str, Tensor]:
    """Return the weights of a network, given by name, for images of another height in pixels.

    Each new row of features gets the weights of the old rows in its part of the image. For features that are the same
    in all rows, the outputs of the network stay the same.
    """
    channels, rows = len(tensors["convolutions.6.convolution.weight"]), _feature_rows(height)
    adapted = dict(tensors)
    for name in FIRST_LSTM_INPUTS:
        weights_UCR = tensors[name].unflatten(1, (channels, -1))
        rows_before = weights_UCR.shape[2]
        if rows != rows_before:
            parts_UCR = weights_UCR.repeat_interleave(rows, dim=2).float() / rows
            adapted[name] = parts_UCR.unflatten(2, (rows, rows_before)).sum(-1).flatten(1)
    return adapted


@torch.no_grad()
def initialise(model: CRNN) -> None:
    """Initialise the weights.

    With PyTorch's defaults, CTC training predicts only blanks for a long time; with these weights, it leaves that
    plateau within a hundred steps. Convolutions are initialised as in He et al. (2015), input weights of LSTMs as in
    Glorot and Bengio (2010). Recurrent weights are an orthogonal matrix for each gate (Saxe et al. 2014), and the
    forget bias is 1 (Jozefowicz et al. 2015).
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.LSTM):
            _initialise_lstm(module)
        elif isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)


def _initialise_lstm(lstm: nn.LSTM) -> None:
    # PyTorch stacks the gates in the order input, forget, cell, output.
    for gate in lstm.get_parameter("weight_ih_l0").chunk(4):
        nn.init.xavier_uniform_(gate)
    for gate in lstm.get_parameter("weight_hh_l0").chunk(4):
        nn.init.orthogonal_(gate)
    input_bias, hidden_bias = lstm.get_parameter("bias_ih_l0"), lstm.get_parameter("bias_hh_l0")
    nn.init.zeros_(input_bias)
    nn.init.zeros_(hidden_bias)
    input_bias.chunk(4)[1].fill_(1)
