"""Installs the host (``threestudio``) and the extension (``threestudio_4d``); tested pins: requirements.txt."""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE_DIRS = {"threestudio": "extern/threestudio", "threestudio_4d": "custom/threestudio_4d"}

INSTALL_REQUIRES = [
    "torch>=2.11",
    "pytorch-lightning>=2.5,<3",
    "omegaconf>=2.3,<3",
    "jaxtyping>=0.2.36",
    "typeguard>=4.2",
    "annotated-types>=0.6",
    "packaging>=23",
    "numpy>=1.26",
    "scipy>=1.11",
    "einops>=0.7",
    "safetensors>=0.5",
    "diffusers>=0.35,<1",
    "transformers>=4.51,<6",
    "accelerate>=1.0",
    "peft>=0.15",
    "numba>=0.61",
    "pillow>=10",
    "opencv-python-headless>=4.9",
    "av>=13",
    "imageio>=2.34",
    "tensorboard>=2.15",
    "trimesh>=4.0",
    "scikit-image>=0.22",
    "torchmetrics>=1.4,<2",
    "xatlas>=0.0.9",
    "pygltflib>=1.16",
    "rich>=13.7",
    "jinja2>=3.1",
    "pyyaml>=6",
]

EXTRAS_REQUIRE = {
    "gpu": ["nerfacc>=0.5.3", "gsplat>=1.5.3"],
    "prepare": ["onnxruntime>=1.17"],
    "draco": ["DracoPy>=1.7"],
    "ray": ["ray>=2.40"],
    "dev": ["pytest>=8", "pytest-xdist>=3.5", "pytest-timeout>=2.2", "ruff>=0.9"],
}


def list_packages() -> list[str]:
    """Names of both packages and of all their sub-packages (folders with an ``__init__.py``)."""
    names = []
    for package, folder in PACKAGE_DIRS.items():
        names.append(package)
        names.extend(f"{package}.{sub}" for sub in find_packages(folder))
    return names


def read_readme() -> str:
    readme = Path(__file__).parent / "README.md"
    return readme.read_text(encoding="utf-8") if readme.is_file() else ""


setup(
    name="threestudio-4d",
    version="0.1.0",
    description="Clips, pictures and sentences become 4D assets: a threestudio extension with its own host",
    long_description=read_readme(),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=list_packages(),
    package_dir=PACKAGE_DIRS,
    install_requires=INSTALL_REQUIRES,
    extras_require=EXTRAS_REQUIRE,
)
