"""What is optimised: fields that answer density, colour and normals at points in space and time.

``cascade_kplanes`` registers ``cascade-kplanes``, the coarse-to-fine K-planes field of Consistent4D.
"""

from . import cascade_kplanes  # noqa: F401
