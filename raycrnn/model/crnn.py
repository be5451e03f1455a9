"""The network of Shi, Bai and Yao 2015 (arXiv:1507.05717), and nothing else.

Tensor names carry their shape: B batch, C channels, H height, W width, T frames, D features, K classes.
A width is an image's own; what lies right of it in a batch is padding and has no influence on the result.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from raycrnn.config import Image, Model

POOLS = ((2, 2), (2, 2), None, (2, 1), None, (2, 1), None)
"""(height, width) of the pooling after each convolution. The paper pools after its convolutions 1, 2, 4 and 6."""
NORMALISED = (False, False, True, False, True, False, True)
"""Batch normalisation after the convolutions 3, 5 and 7."""


class CRNN(nn.Module):
    """Seven convolutions, bidirectional LSTM layers, one linear layer.

    Args:
        classes: K, units and the blank.
        input_channels: 1 or 3.
        height: of the images in pixels, a multiple of 16 from 32 on.
        cnn_channels: output channels of the seven convolutions.
        lstm_size: units of each direction.
        dropout: probability, before and between the LSTM layers and before the linear layer.
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
    ):
        super().__init__()
        inputs = (input_channels, *cnn_channels)
        self.convolutions = nn.ModuleList(
            ConvolutionLayer(inputs[i], inputs[i + 1], NORMALISED[i], POOLS[i], last=i == 6) for i in range(7)
        )
        features = cnn_channels[-1] * (height // 16 - 1)
        self.lstms = nn.ModuleList(
            BidirectionalLSTM(features if i == 0 else 2 * lstm_size, lstm_size) for i in range(lstm_layers)
        )
        self.output = nn.Linear(2 * lstm_size, classes)
        self.dropout = nn.Dropout(dropout)
        initialise(self)

    @classmethod
    def from_settings(cls, model: Model, image: Image, classes: int) -> "CRNN":
        """The network of a configuration."""
        return cls(
            classes=classes,
            input_channels=image.input_channels,
            height=image.input_shape[0],
            cnn_channels=model.channels,
            lstm_size=model.lstm_units,
            lstm_layers=model.lstm_layers,
            dropout=1 - model.keep_prob,
        )

    def forward(self, images_BCHW: Tensor, widths_B: Tensor) -> tuple[Tensor, Tensor]:
        """Log-probabilities of images.

        Args:
            images_BCHW: grey or RGB values 0…255, any dtype.
            widths_B: each image's own width in pixels, int64, at least 8.

        Returns:
            log_probs_TBK, float32, T = W // 4 − 1, and the frames of each image, frames_B. Frames past an
            image's own are not its transcription.
        """
        x_BCHW = standardise(images_BCHW, widths_B)
        for convolution in self.convolutions:
            x_BCHW, widths_B = convolution(x_BCHW, widths_B)
        x_BTD = x_BCHW.flatten(1, 2).transpose(1, 2)
        for lstm in self.lstms:
            x_BTD = lstm(self.dropout(x_BTD), widths_B)
        logits_BTK = self.output(self.dropout(x_BTD))
        return F.log_softmax(logits_BTK.float(), dim=-1).transpose(0, 1), widths_B


def standardise(images_BCHW: Tensor, widths_B: Tensor) -> Tensor:
    """Each image with mean 0 and deviation 1 over its own pixels; padding is 0. Returns float32."""
    mask_B11W = width_mask(widths_B, images_BCHW.shape[-1])
    images_BCHW = images_BCHW.float() * mask_B11W
    pixels_B = widths_B * images_BCHW.shape[1] * images_BCHW.shape[2]
    mean_B = images_BCHW.sum((1, 2, 3)) / pixels_B
    centred_BCHW = (images_BCHW - mean_B.view(-1, 1, 1, 1)) * mask_B11W
    variance_B = centred_BCHW.square().sum((1, 2, 3)) / pixels_B
    # A deviation below one grey level is noise: an empty image must not be blown up to full contrast.
    return centred_BCHW / variance_B.sqrt().clamp(min=1).view(-1, 1, 1, 1)


def width_mask(widths_B: Tensor, width: int) -> Tensor:
    """[B, 1, 1, W]: 1 within each image's own width, 0 in the padding."""
    columns_W = torch.arange(width, device=widths_B.device)
    return (columns_W < widths_B[:, None]).float()[:, None, None, :]


class ConvolutionLayer(nn.Module):
    """Convolution, batch normalisation, ReLU, pooling; padding stays zero, as beyond the edge of a lone image."""

    def __init__(self, inputs: int, outputs: int, normalised: bool, pool: tuple[int, int] | None, last: bool):
        super().__init__()
        self.last = last
        self.pool = pool
        # Batch normalisation has a bias of its own.
        self.convolution = nn.Conv2d(inputs, outputs, 2 if last else 3, padding=0 if last else 1, bias=not normalised)
        self.norm = nn.BatchNorm2d(outputs) if normalised else None

    def forward(self, x_BCHW: Tensor, widths_B: Tensor) -> tuple[Tensor, Tensor]:
        x_BCHW = self.convolution(x_BCHW)
        if self.last:
            widths_B = widths_B - 1
        if self.norm is not None:
            x_BCHW = self._normalise(x_BCHW, widths_B)
        x_BCHW = F.relu(x_BCHW)
        if self.pool is not None:
            x_BCHW = F.max_pool2d(x_BCHW, self.pool)
            widths_B = widths_B // self.pool[1]
        # After pooling, which makes of an odd width's last column and padding one that a lone image does not have.
        return x_BCHW * width_mask(widths_B, x_BCHW.shape[-1]).to(x_BCHW.dtype), widths_B

    def _normalise(self, x_BCHW: Tensor, widths_B: Tensor) -> Tensor:
        """Batch normalisation whose statistics in training leave the padding out.

        The images' own pixels are gathered, so that the norm itself stays torch's: it may be
        replaced by `torch.nn.SyncBatchNorm`.
        """
        if not self.training:
            return self.norm(x_BCHW)
        batch, channels, height, width = x_BCHW.shape
        pixels_NC = x_BCHW.permute(0, 2, 3, 1).reshape(-1, channels)
        own_N = width_mask(widths_B, width).expand(-1, 1, height, -1).reshape(-1).nonzero()[:, 0]
        if len(own_N) == 1:
            # The norm refuses a lone pixel (one narrow image); beside itself it has the same mean and no variance.
            own_N = own_N.repeat(2)
        normalised_NC = self.norm(pixels_NC.index_select(0, own_N)[:, :, None, None])[:, :, 0, 0]
        pixels_NC = torch.zeros_like(pixels_NC).index_copy(0, own_N, normalised_NC.to(pixels_NC.dtype))
        return pixels_NC.view(batch, height, width, channels).permute(0, 3, 1, 2)


class BidirectionalLSTM(nn.Module):
    """Two LSTMs, one of which reads each sequence from its own end."""

    def __init__(self, inputs: int, units: int):
        super().__init__()
        self.forwards = nn.LSTM(inputs, units, batch_first=True)
        self.backwards = nn.LSTM(inputs, units, batch_first=True)

    def forward(self, x_BTD: Tensor, lengths_B: Tensor) -> Tensor:
        """[B, T, D] → [B, T, 2 × units]. Frames past a sequence's length do not reach those within it."""
        # A gather rather than a packed sequence: it exports, and keeps the batch whole.
        steps_BT = reversal(lengths_B, x_BTD.shape[1])
        ahead_BTU = self.forwards(x_BTD)[0]
        back_BTU = self.backwards(_take(x_BTD, steps_BT))[0]
        return torch.cat([ahead_BTU, _take(back_BTU, steps_BT)], dim=2)


def reversal(lengths_B: Tensor, steps: int) -> Tensor:
    """Indices [B, T] that reverse the first `length` steps of each sequence and leave the others."""
    steps_1T = torch.arange(steps, device=lengths_B.device)[None]
    lengths_B1 = lengths_B[:, None]
    return torch.where(steps_1T < lengths_B1, lengths_B1 - 1 - steps_1T, steps_1T)


def _take(x_BTD: Tensor, steps_BT: Tensor) -> Tensor:
    return x_BTD.gather(1, steps_BT[:, :, None].expand(-1, -1, x_BTD.shape[2]))


@torch.no_grad()
def initialise(model: CRNN) -> None:
    """Weights that leave the all-blank plateau within a hundred steps; PyTorch's defaults stay on it for long.

    Convolutions as He et al. 2015, LSTM inputs as Glorot and Bengio 2010, recurrent weights orthogonal by gate
    (Saxe et al. 2014), a forget bias of 1 (Jozefowicz et al. 2015).
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
    # torch stacks the gates in the order input, forget, cell, output.
    for gate in lstm.weight_ih_l0.chunk(4):
        nn.init.xavier_uniform_(gate)
    for gate in lstm.weight_hh_l0.chunk(4):
        nn.init.orthogonal_(gate)
    nn.init.zeros_(lstm.bias_ih_l0)
    nn.init.zeros_(lstm.bias_hh_l0)
    lstm.bias_ih_l0.chunk(4)[1].fill_(1)
