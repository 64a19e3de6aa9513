"""Six-plane lookup: the reference against a naive loop, and every backend against the reference."""

import importlib.util
import os

import numba
import pytest
import torch

from threestudio_4d.ops import cpu_threads
from threestudio_4d.ops.planes import PAIRS, interpolate_planes, plane_slopes, prepare_planes, select_backend

RESOLUTION = (7, 5, 6, 3)

interpreted = pytest.mark.skipif(
    os.environ.get("TRITON_INTERPRET") != "1" or importlib.util.find_spec("triton") is None,
    reason="needs triton and TRITON_INTERPRET=1, which runs the kernel's code on the CPU",
)


def make_planes(channels=5, resolution=RESOLUTION, dtype=torch.float32, device="cpu", seed=0):
    generator = torch.Generator().manual_seed(seed)
    return [
        (torch.rand(1, channels, resolution[b], resolution[a], generator=generator, dtype=dtype) + 0.5)
        .to(device)
        .requires_grad_()
        for a, b in PAIRS
    ]


def make_coords(count=300, dtype=torch.float32, device="cpu", reach=1.3):
    generator = torch.Generator().manual_seed(1)
    coords = (torch.rand(count, 4, generator=generator, dtype=dtype) * 2 - 1) * reach
    if count >= 4:
        coords[0], coords[1] = 1.0, -1.0
        coords[2] = torch.tensor([5.0, -5.0, 0.3, 1.0], dtype=dtype)
    return coords.to(device).requires_grad_()


def naive(planes, coords, hybrid):
    """One point and one plane at a time, weights written out."""
    rows = []
    for q in coords:
        values = []
        for plane, pair in zip(planes, PAIRS, strict=True):
            sizes = (plane.shape[3], plane.shape[2])
            u, v = (((q[axis] + 1) / 2 * (size - 1)).clamp(0, size - 1) for axis, size in zip(pair, sizes, strict=True))
            i, j = (min(int(w), size - 2) for w, size in zip((u, v), sizes, strict=True))
            fu, fv = u - i, v - j
            texels = plane[0]
            values.append(
                (1 - fv) * ((1 - fu) * texels[:, j, i] + fu * texels[:, j, i + 1])
                + fv * ((1 - fu) * texels[:, j + 1, i] + fu * texels[:, j + 1, i + 1])
            )
        xy, xz, xt, yz, yt, zt = values
        rows.append((xy + xz + yz) * xt * yt * zt if hybrid else xy * xz * xt * yz * yt * zt)
    return torch.stack(rows)


def gradients(function, planes, coords):
    out = function(planes, coords)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(2), dtype=out.dtype).to(out.device)
    return out, torch.autograd.grad((out * weight).sum(), [*planes, coords])


@pytest.mark.parametrize("hybrid", [False, True])
def test_reference_equals_naive_lookup(hybrid):
    planes, coords = make_planes(dtype=torch.float64), make_coords(24, torch.float64, reach=0.97)
    with torch.no_grad():
        coords[:3] = coords[3:6] * 0.9  # border points have no unique gradient
    expected, expected_grads = gradients(lambda p, q: naive(p, q, hybrid), planes, coords)
    value, grads = gradients(lambda p, q: interpolate_planes(p, q, hybrid, "torch"), planes, coords)
    torch.testing.assert_close(value, expected)
    for grad, target in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, target)


@pytest.mark.parametrize("hybrid", [False, True])
def test_reference_gradcheck(hybrid):
    planes, coords = make_planes(2, (4, 3, 4, 3), torch.float64), make_coords(6, torch.float64, reach=0.9)
    coords = (coords.detach() * 0.9).clamp(-0.93, 0.93).requires_grad_()
    assert torch.autograd.gradcheck(lambda q, *p: interpolate_planes(p, q, hybrid, "torch"), (coords, *planes))


def assert_matches_reference(backend, device, channels, hybrid, coords=None):
    planes = make_planes(channels, device=device)
    coords = make_coords(device=device) if coords is None else coords
    expected, expected_grads = gradients(lambda p, q: interpolate_planes(p, q, hybrid, "torch"), planes, coords)
    value, grads = gradients(lambda p, q: interpolate_planes(p, q, hybrid, backend), planes, coords)
    torch.testing.assert_close(value, expected, rtol=2e-5, atol=2e-6)
    inside = (coords.detach().abs() < 1).all(dim=1)  # on the very border the one-sided gradients differ
    for grad, target in zip(grads[:6], expected_grads[:6], strict=True):
        torch.testing.assert_close(grad, target, rtol=2e-4, atol=2e-4)
    torch.testing.assert_close(grads[6][inside], expected_grads[6][inside], rtol=2e-4, atol=1e-3)
    far = coords.detach().abs() > 1.001
    assert (grads[6][far] == 0).all()


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("channels", [1, 5, 16])
def test_numba_matches_reference(channels, hybrid):
    assert_matches_reference("numba", "cpu", channels, hybrid)


@pytest.mark.gpu
@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("channels", [1, 5, 16, 48, 64])
def test_triton_matches_reference(channels, hybrid):
    assert_matches_reference("triton", "cuda", channels, hybrid)


@interpreted
@pytest.mark.parametrize(("channels", "hybrid"), [(5, False), (5, True), (16, False)])
def test_triton_interpreter_matches_reference(channels, hybrid):
    assert_matches_reference("triton", "cpu", channels, hybrid)


def test_numba_repeats_bit_for_bit_and_agrees_across_thread_counts():
    planes, coords = make_planes(8), make_coords(4096)
    before = torch.get_num_threads()
    results = {}
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            first = gradients(lambda p, q: interpolate_planes(p, q, backend="numba"), planes, coords)[1]
            again = gradients(lambda p, q: interpolate_planes(p, q, backend="numba"), planes, coords)[1]
            assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
            results[threads] = first
    finally:
        torch.set_num_threads(before)
    for a, b in zip(results[1], results[2], strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_non_contiguous_coords_and_planes(backend):
    planes = [p.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_() for p in make_planes()]
    wide = torch.rand(50, 8) * 2 - 1
    value, grads = gradients(
        lambda p, q: interpolate_planes(p, q, backend=backend), planes, wide[:, ::2].requires_grad_()
    )
    expected, expected_grads = gradients(
        lambda p, q: interpolate_planes(p, q, backend="torch"),
        make_planes(),
        wide[:, ::2].contiguous().requires_grad_(),
    )
    torch.testing.assert_close(value, expected)
    for grad, target in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, target, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_no_points(backend):
    planes = make_planes()
    coords = torch.zeros(0, 4, requires_grad=True)
    value, grads = gradients(lambda p, q: interpolate_planes(p, q, backend=backend), planes, coords)
    assert value.shape == (0, 5)
    assert all((grad == 0).all() for grad in grads)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_axis_with_one_texel(backend):
    planes, coords = make_planes(4, (4, 4, 4, 1)), make_coords(64)
    value, grads = gradients(lambda p, q: interpolate_planes(p, q, backend=backend), planes, coords)
    expected = interpolate_planes(planes, coords, backend="torch")
    torch.testing.assert_close(value, expected)
    assert (grads[6][:, 3] == 0).all()


def test_numba_survives_nan_coordinates():
    coords = torch.full((3, 4), float("nan"))
    assert interpolate_planes(make_planes(), coords, backend="numba").shape == (3, 5)


def test_plane_gradient_only_where_asked():
    planes, coords = make_planes(), make_coords()
    out = interpolate_planes([p.detach() for p in planes], coords, backend="numba")
    assert torch.autograd.grad(out.sum(), coords)[0].abs().sum() > 0
    out = interpolate_planes(planes, coords.detach(), backend="numba")
    assert torch.autograd.grad(out.sum(), planes[0])[0].abs().sum() > 0


@pytest.mark.parametrize(
    ("planes", "coords", "message"),
    [
        (make_planes()[:5], torch.zeros(3, 4), "expected 6 planes"),
        (make_planes(), torch.zeros(3, 3), r"coords must be \[N, 4\].*got \[3, 3\]"),
        (make_planes()[:3] + make_planes(resolution=(7, 9, 6, 3))[3:], torch.zeros(3, 4), "9 texels along y"),
        (make_planes()[:5] + make_planes(3)[5:], torch.zeros(3, 4), "plane 5 has 3 channels"),
        (make_planes()[:5] + [torch.zeros(5, 3, 6)], torch.zeros(3, 4), r"plane 5 must be \[1, C, R_b, R_a\]"),
        (
            make_planes(),
            torch.zeros(3, 4, dtype=torch.float64),
            "planes are torch.float32 on cpu, coords are torch.float64",
        ),
    ],
)
def test_wrong_shapes_are_named(planes, coords, message):
    with pytest.raises(ValueError, match=message):
        interpolate_planes(planes, coords)


@pytest.mark.parametrize("backend", ["torch", "numba"])
def test_prepared_planes_stand_for_the_planes(backend):
    planes, coords = make_planes(), make_coords()
    prepared = prepare_planes(planes, backend)
    expected, expected_grads = gradients(lambda p, q: interpolate_planes(p, q, backend=backend), planes, coords)
    value = interpolate_planes(prepared, coords)
    weight = torch.randn(value.shape, generator=torch.Generator().manual_seed(2))
    grads = torch.autograd.grad((value * weight).sum(), planes)
    assert torch.equal(value, expected)
    assert all(torch.equal(a, b) for a, b in zip(grads, expected_grads[:6], strict=True))


def test_kernels_compile_where_no_cache_can_be_written(monkeypatch):
    def refuse(cache=False, **options):
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return numba.njit(**options)

    monkeypatch.setattr(cpu_threads, "njit", refuse)
    assert cpu_threads.compiled(lambda a: a + 1)(1) == 2


def test_backend_choice():
    coords = torch.zeros(1, 4)
    assert select_backend("auto", coords, 16) == "numba"
    assert select_backend("auto", coords.double(), 16) == "torch"
    with pytest.raises(ValueError, match="unknown plane backend 'cuda'"):
        select_backend("cuda", coords, 16)
    with pytest.raises(ValueError, match="works in float32"):
        select_backend("numba", coords.double(), 16)
    with pytest.raises(ValueError, match="at most 64 channels"):
        select_backend("triton", coords, 65)


def slope_gradients(planes, coords, cotangent, hybrid, backend):
    out = plane_slopes(planes, coords, cotangent, hybrid, backend)
    weight = torch.randn(out.shape, generator=torch.Generator().manual_seed(4), dtype=out.dtype).to(out.device)
    return out, torch.autograd.grad((out * weight).sum(), [*planes, cotangent])


@pytest.mark.parametrize("hybrid", [False, True])
def test_slopes_are_the_coordinate_gradient(hybrid):
    planes, coords = make_planes(dtype=torch.float64), make_coords(40, torch.float64, reach=0.97)
    cotangent = torch.randn(40, 5, dtype=torch.float64, requires_grad=True)
    features = interpolate_planes(planes, coords, hybrid, "torch")
    expected = torch.autograd.grad(features, coords, cotangent)[0]
    slopes = plane_slopes(planes, coords, cotangent, hybrid, "torch")
    inside = (coords.abs() < 1).all(dim=1)
    torch.testing.assert_close(slopes[inside], expected[inside])
    with torch.no_grad():
        torch.testing.assert_close(plane_slopes(planes, coords, cotangent, hybrid, "torch"), slopes)
    small = make_planes(2, (4, 3, 4, 3), torch.float64)
    points = coords.detach()[8:12] * 0.9
    assert torch.autograd.gradcheck(
        lambda c, *p: plane_slopes(p, points, c, hybrid, "torch"), (cotangent[8:12, :2], *small)
    )


def assert_slopes_match_reference(backend, device, channels, hybrid):
    planes, coords = make_planes(channels, device=device), make_coords(device=device).detach()
    coords = coords[(coords.abs() != 1).all(dim=1)]
    cotangent = (
        torch.randn(len(coords), channels, generator=torch.Generator().manual_seed(3)).to(device).requires_grad_()
    )
    expected, expected_grads = slope_gradients(planes, coords, cotangent, hybrid, "torch")
    value, grads = slope_gradients(planes, coords, cotangent, hybrid, backend)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=1e-3)
    for grad, target in zip(grads, expected_grads, strict=True):
        torch.testing.assert_close(grad, target, rtol=2e-4, atol=2e-5 * float(target.abs().max()) + 1e-6)


@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("channels", [1, 5, 16])
def test_numba_slopes_match_reference(channels, hybrid):
    assert_slopes_match_reference("numba", "cpu", channels, hybrid)


@pytest.mark.gpu
@pytest.mark.parametrize("hybrid", [False, True])
@pytest.mark.parametrize("channels", [5, 16, 64])
def test_triton_slopes_match_reference(channels, hybrid):
    assert_slopes_match_reference("triton", "cuda", channels, hybrid)


@interpreted
@pytest.mark.parametrize(("channels", "hybrid"), [(5, False), (5, True), (16, False)])
def test_triton_interpreter_slopes_match_reference(channels, hybrid):
    assert_slopes_match_reference("triton", "cpu", channels, hybrid)


def test_wrong_cotangent_is_named():
    with pytest.raises(ValueError, match=r"cotangent must be \[N, C\] = \[3, 5\], got \[3, 4\]"):
        plane_slopes(make_planes(), torch.zeros(3, 4), torch.zeros(3, 4))
