"""Frame interpolation: what lies between two pictures, and the loss that asks renders to agree with it.

``ifnet`` is the network of RIFE v4.6, ``weights`` reads its published files strictly, ``rife`` registers it as
``rife-interpolator``; ``rife_ncnn`` registers a second backend, ``rife-ncnn-interpolator``, for those who have that
package and its models; ``consistency`` is the interpolation consistency loss of Consistent4D. An interpolator is called
as ``interpolator(first [B, H, W, 3], last [B, H, W, 3], timesteps) -> [B, K, H, W, 3]``.
"""

from ..objective.interpolation import interpolation_consistency_loss
from . import rife, rife_ncnn

__all__ = ["interpolation_consistency_loss", "rife", "rife_ncnn"]
