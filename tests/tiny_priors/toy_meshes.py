"""Two objects with names that captions know, in a few poses each."""

import numpy as np
import trimesh

from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes


def toy_meshes() -> PosedMeshes:
    """A box of three heights called ``Fox``, and a ball called ``Apple``."""
    box, ball = trimesh.creation.box((0.9, 0.3, 0.5)), trimesh.creation.icosphere(1, 0.5)
    moving = np.stack([box.vertices * [1, 1, s] for s in (0.6, 1.0, 1.4)])
    colours = [np.tile(rgb, (len(mesh.vertices), 1)) for mesh, rgb in ((box, [0.8, 0.3, 0.1]), (ball, [0.1, 0.6, 0.1]))]
    return PosedMeshes.from_arrays([moving, ball.vertices], [box.faces, ball.faces], colours, names=["Fox", "Apple"])
