"""The library that the ops are registered in, `torch.ops.rerankkit`."""

import torch

LIBRARY = torch.library.Library("rerankkit", "DEF")
