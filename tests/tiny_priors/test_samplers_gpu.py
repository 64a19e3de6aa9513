"""On a GPU: samplers never make the host wait, and draw what the CPU draws from the same numbers."""

import pytest
import torch

from threestudio_4d.tiny_priors.assets.bestiary import make_creature
from threestudio_4d.tiny_priors.rendering.scenes import PosedMeshes
from threestudio_4d.tiny_priors.sampling.clip_sampler import DRAWS, ClipSampler
from threestudio_4d.tiny_priors.sampling.pairs import PairSampler
from threestudio_4d.tiny_priors.sampling.view_sampler import ViewSampler

pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")]


@pytest.fixture(scope="module")
def assets():
    pytest.importorskip("triton")
    return [make_creature(seed) for seed in range(4)]


def test_nothing_waits_for_the_gpu(assets):
    meshes = PosedMeshes.from_assets(assets, "cuda")
    samplers = [
        PairSampler(meshes, 32, validation=None),
        ViewSampler(meshes, 4, 32, validation=None),
        ClipSampler(meshes, 6, 32, validation=None),
    ]
    for sampler in samplers:
        sampler(8)  # compiles
        torch.cuda.set_sync_debug_mode("error")
        try:
            sampler(8)
        finally:
            torch.cuda.set_sync_debug_mode("default")


def test_clips_agree_with_the_cpu(assets):
    u = torch.rand(DRAWS, 12, generator=torch.Generator().manual_seed(0))
    batches = []
    for device in ("cpu", "cuda"):
        meshes = PosedMeshes.from_assets(assets, device)
        batches.append(ClipSampler(meshes, 5, 48, validation=None).from_uniform(u.to(device)))
    cpu, gpu = batches
    assert torch.equal(cpu.pose, gpu.pose.cpu()) and torch.equal(cpu.caption, gpu.caption.cpu())
    assert (cpu.video - gpu.video.cpu()).abs().mean() < 2e-3
    assert (cpu.alpha - gpu.alpha.cpu()).abs().mean() < 2e-3
