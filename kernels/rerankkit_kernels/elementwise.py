"""Functions of one number for the Triton kernels, as exact near zero as PyTorch's are.

`1 - 2 / (exp(2x) + 1)` and `log(1 + x)` are right as formulas and lose a small x to the rounding of the 1.
"""

import triton
import triton.language as tl


@triton.jit
def tanh(x):
    """Of any x; none overflows to NaN."""
    far = 1.0 - 2.0 / (tl.exp(2.0 * x) + 1.0)
    # Taylor's series, whose next term is below 6e-8 of x where it is used
    t = x * x
    near = x * (1.0 - t * (1.0 / 3 - t * (2.0 / 15 - t * (17.0 / 315 - t * (62.0 / 2835)))))
    return tl.where(t < 0.09, near, far)


@triton.jit
def log1p(z):
    """log(1 + z) of z in [0, 1], as 2 artanh(z / (2 + z)) by its series, whose next term is below 2e-8 of it."""
    s = z / (2.0 + z)
    t = s * s
    series = 1.0 / 7 + t * (1.0 / 9 + t * (1.0 / 11 + t * (1.0 / 13)))
    return 2.0 * s * (1.0 + t * (1.0 / 3 + t * (1.0 / 5 + t * series)))
