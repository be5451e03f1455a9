"""Copy a model directory with its weights in half precision, which takes half of the space.

raycrnn reads such a model like any other. Usage: python to_half.py output/model smaller
"""

import shutil
import sys
from pathlib import Path

import safetensors.torch

source, target = map(Path, sys.argv[1:])
shutil.copytree(source, target)
weights = target / "model.safetensors"
tensors = safetensors.torch.load_file(weights)
halves = {name: tensor.half() if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
safetensors.torch.save_file(halves, weights)
