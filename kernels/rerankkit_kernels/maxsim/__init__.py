"""MaxSim, the score of late interaction. Read `reference.py`, `api.py`, then a backend."""

from rerankkit_kernels.maxsim.api import maxsim, maxsim_packed, pack, quantize

__all__ = ["maxsim", "maxsim_packed", "pack", "quantize"]
