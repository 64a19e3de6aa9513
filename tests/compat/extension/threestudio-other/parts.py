from dataclasses import dataclass

import threestudio
from threestudio.data.image import (  # noqa: F401
    SingleImageDataModuleConfig,
    SingleImageDataset,
    SingleImageIterableDataset,
)
from threestudio.data.uncond import (  # noqa: F401
    RandomCameraDataModuleConfig,
    RandomCameraDataset,
    RandomCameraIterableDataset,
)
from threestudio.models.background.base import BaseBackground  # noqa: F401
from threestudio.models.estimators import ImportanceEstimator  # noqa: F401
from threestudio.models.exporters.base import Exporter, ExporterOutput  # noqa: F401
from threestudio.models.geometry.base import (  # noqa: F401
    BaseExplicitGeometry,
    BaseGeometry,
    BaseImplicitGeometry,
    contract_to_unisphere,
)
from threestudio.models.geometry.implicit_sdf import ImplicitSDF  # noqa: F401
from threestudio.models.geometry.implicit_volume import ImplicitVolume  # noqa: F401
from threestudio.models.guidance.stable_zero123_guidance import StableZero123Guidance
from threestudio.models.materials.base import BaseMaterial  # noqa: F401
from threestudio.models.mesh import Mesh  # noqa: F401
from threestudio.models.networks import create_network_with_input_encoding, get_encoding, get_mlp  # noqa: F401
from threestudio.models.prompt_processors.base import (  # noqa: F401
    PromptProcessor,
    PromptProcessorOutput,
    hash_prompt,
)
from threestudio.models.renderers.base import Rasterizer, VolumeRenderer  # noqa: F401
from threestudio.systems.base import BaseLift3DSystem  # noqa: F401
from threestudio.systems.utils import (  # noqa: F401
    get_scheduler,
    parse_optimizer,
    parse_scheduler,
    parse_scheduler_to_instance,
)
from threestudio.utils.base import BaseModule, BaseObject, Updateable  # noqa: F401
from threestudio.utils.config import parse_structured  # noqa: F401
from threestudio.utils.loss import tv_loss  # noqa: F401
from threestudio.utils.misc import (  # noqa: F401
    C,
    barrier,
    cleanup,
    get_device,
    get_rank,
    load_module_weights,
    parse_version,
)
from threestudio.utils.ops import (  # noqa: F401
    binary_cross_entropy,
    chunk_batch,
    convert_pose,
    dot,
    get_activation,
    get_cam_info_gaussian,
    get_fov_gaussian,
    get_full_projection_matrix,
    get_mvp_matrix,
    get_projection_matrix,
    get_ray_directions,
    get_rays,
    perpendicular_component,
    shifted_cosine_decay,
    shifted_expotional_decay,
    validate_empty_rays,
)
from threestudio.utils.perceptual import PerceptualLoss  # noqa: F401
from threestudio.utils.rasterize import NVDiffRasterizerContext  # noqa: F401
from threestudio.utils.typing import *  # noqa: F403


@threestudio.register("other-guidance")
class OtherGuidance(StableZero123Guidance):
    @dataclass
    class Config(StableZero123Guidance.Config):
        pass
