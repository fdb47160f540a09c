"""Yes/no extraction: two rows of the output layer at one position of each sequence."""

from rerankkit_kernels.pair_score.api import pair_score

__all__ = ["pair_score"]
