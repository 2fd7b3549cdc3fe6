"""`make build`: the layers for Lambda in build/, on any machine: wheels only, by the lock's hashes."""

import argparse
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

from local.child import ROOT

BUILD = ROOT / "build"
DEPENDENCIES = ROOT / "layers" / "dependencies" / "requirements.txt"
PLATFORMS = {"arm64": "aarch64", "x86_64": "x86_64"}
NOT_NEEDED = ("__pycache__", "*.pyc", "tests", "bin")


def main() -> None:
    """Build the layers and print their sizes."""
    parser = argparse.ArgumentParser(prog="python -m local.build", description=main.__doc__)
    parser.add_argument("--architecture", choices=PLATFORMS, default="arm64")
    parser.add_argument("--python", default="3.13", metavar="VERSION", help="of the Lambda runtime")
    options = parser.parse_args()
    shutil.rmtree(BUILD, ignore_errors=True)
    print(f"dependencies for {options.architecture}, Python {options.python}:", flush=True)
    _install(BUILD / "dependencies" / "python", PLATFORMS[options.architecture], options.python)
    shutil.copytree(
        ROOT / "layers" / "farebox" / "farebox",
        BUILD / "farebox" / "python" / "farebox",
        ignore=shutil.ignore_patterns(*NOT_NEEDED),
    )
    for layer in ("dependencies", "farebox"):
        path = _zipped(BUILD / layer)
        zipped, unpacked = path.stat().st_size / 1e6, _size(BUILD / layer)
        print(f"{path.relative_to(ROOT)}: {zipped:.1f} MB zipped, {unpacked:.1f} MB unpacked")


def _install(target: Path, machine: str, python: str) -> None:
    options = ["--require-hashes", "--no-deps", "--only-binary=:all:", "--no-compile", "--quiet"]
    platforms = [f"--platform=manylinux{tag}_{machine}" for tag in ("2014", "_2_17", "_2_28", "_2_34")]
    command = ["pip", "--disable-pip-version-check", "install", *options, *platforms, f"--python-version={python}"]
    subprocess.run([sys.executable, "-m", *command, "--target", str(target), "-r", str(DEPENDENCIES)], check=True)
    for pattern in NOT_NEEDED:
        for path in [*target.rglob(pattern)]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _zipped(folder: Path) -> Path:
    path = folder.with_suffix(".zip")
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*")):
            archive.write(file, file.relative_to(folder))
    return path


def _size(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


if __name__ == "__main__":
    main()
