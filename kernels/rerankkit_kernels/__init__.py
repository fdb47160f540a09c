"""The operations of rerankkit as a small library: torch alone, nothing of rerankkit.

Each op is a folder. `reference.py` defines it in plain PyTorch that also runs in float64, `torch.py` is the fast path,
`op.py` registers it, and `api.py` is what one calls.
"""

from rerankkit_kernels.logprob import sequence_logprob, token_logprob
from rerankkit_kernels.maxsim import maxsim, maxsim_packed, pack, quantize
from rerankkit_kernels.pair_score import pair_score

__all__ = ["maxsim", "maxsim_packed", "pack", "pair_score", "quantize", "sequence_logprob", "token_logprob"]
