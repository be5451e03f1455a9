"""Read images of text lines with an exported model. Needs onnxruntime, Pillow and NumPy, and neither raycrnn nor torch.

    raycrnn export output/model model.onnx
    python examples/onnx_predict.py model.onnx line1.png line2.jpg

It returns the same texts as raycrnn with `decoding.method=greedy`. For brevity it has no batches, does not blend
transparent images with white, does not scale greys of more than 8 bits, does not handle files that are not images, and
does not bring text from right to left into reading order (`text_direction` in the metadata).
"""

import itertools
import json
import sys

import numpy as np
import onnxruntime
from PIL import Image, ImageOps


def prepare(path: str, about: dict[str, str]) -> np.ndarray:
    """Return an image as the model takes it, uint8 [1, C, H, W]: upright, grey or RGB, with the model's height."""
    image = ImageOps.exif_transpose(Image.open(path)).convert("L" if about["channels"] == "1" else "RGB")
    if about.get("line_orientation", "horizontal") != "horizontal":
        counterclockwise = about["line_orientation"] == "top_to_bottom"
        image = image.transpose(Image.Transpose.ROTATE_90 if counterclockwise else Image.Transpose.ROTATE_270)
    height = int(about["height"])
    width = max(round(image.width * height / image.height), int(about["least_width"]))
    size = (min(width, int(about["greatest_width"])), height)
    method = Image.Resampling[about["interpolation"].upper()]
    pixels = np.asarray(image.resize(size, method, reducing_gap=float(about["reducing_gap"])))
    return pixels.reshape(height, size[0], -1).transpose(2, 0, 1)[None]


def decode(log_probs: np.ndarray, about: dict[str, str]) -> str:
    """Return the text of log-probabilities [T, K]: the best class of each frame, repeats merged, blanks dropped."""
    alphabet, blank = json.loads(about["alphabet"]), int(about["blank"])
    return "".join(alphabet[code] for code, _ in itertools.groupby(log_probs.argmax(axis=1)) if code != blank)


def main(model: str, *paths: str) -> None:
    """Print the path and the text of each image."""
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    about = session.get_modelmeta().custom_metadata_map
    for path in paths:
        images = prepare(path, about)
        log_probs, _ = session.run(["log_probs", "frames"], {"images": images, "widths": np.array([images.shape[3]])})
        print(path, decode(log_probs[:, 0], about), sep="\t")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit(f"usage: python {sys.argv[0]} MODEL.onnx IMAGE …")
    main(*sys.argv[1:])
