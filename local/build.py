"""`make build`: `sam build`, and the size of everything that a deployment uploads.

`sam build` alone does the same. This one knows the Python that has pip, passes on what to build for, and measures.
"""

import argparse
import io
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from local.child import ROOT

SAM = Path(sys.executable).parent / "sam"
BUILD = ROOT / ".aws-sam" / "build"
FOLDERS = {"AWS::Serverless::Function": "CodeUri", "AWS::Serverless::LayerVersion": "ContentUri"}


@dataclass(frozen=True, slots=True)
class Part:
    """A layer or function as it is uploaded."""

    name: str
    zipped: int
    unpacked: int
    is_compiled: bool

    def __str__(self) -> str:
        note = ", compiled" if self.is_compiled else ""
        return f"  {self.name:<12} {self.zipped / 1e6:6.2f} MB zipped {self.unpacked / 1e6:6.1f} MB unpacked{note}"


def main() -> None:
    """Build for Lambda, and print the sizes."""
    parser = argparse.ArgumentParser(prog="python -m local.build", description=main.__doc__)
    parser.add_argument("--architecture", choices=["arm64", "x86_64"], default="arm64")
    parser.add_argument("--python", default="3.13", metavar="VERSION", help="of the Lambda runtime")
    parser.add_argument("--build-dir", type=Path, default=BUILD, help="sam deploy looks into .aws-sam/build")
    options = parser.parse_args()
    made_for = {"ARCHITECTURE": options.architecture, "PYTHON_VERSION": options.python, "PYTHON": sys.executable}
    command = [SAM, "build", "--build-dir", options.build_dir.resolve()]
    quiet = {"SAM_CLI_TELEMETRY": "0"}
    for cache in (ROOT / "functions").rglob("__pycache__"):
        shutil.rmtree(cache)  # functions are uploaded as they are, and would seem changed
    # Without what a make above us was told: its variables would win over ours in the layers' makefiles.
    inherited = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MFLAGS")}
    if code := subprocess.run(command, cwd=ROOT, env={**inherited, **quiet, **made_for}, check=False).returncode:
        sys.exit(code)
    print(f"\nFor {options.architecture}, Python {options.python}:")
    for part in parts(options.build_dir.resolve(), f".cpython-{options.python.replace('.', '')}.pyc"):
        print(part)


def parts(build_dir: Path, compiled: str) -> Iterator[Part]:
    """What the built template uploads, in its order. `compiled`: how names of compiled files end."""
    from samcli.yamlhelper import yaml_parse  # type: ignore[import-untyped]  # noqa: PLC0415 - half a second

    for name, resource in yaml_parse((build_dir / "template.yaml").read_text())["Resources"].items():
        if where := FOLDERS.get(resource["Type"]):
            folder = build_dir / resource["Properties"][where]
            files = sorted(file for file in folder.rglob("*") if file.is_file())
            unpacked = sum(file.stat().st_size for file in files)
            yield Part(name, _zipped(folder, files), unpacked, any(file.name.endswith(compiled) for file in files))


def _zipped(folder: Path, files: list[Path]) -> int:
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        for file in files:
            zipped.write(file, file.relative_to(folder))
    return len(archive.getvalue())


if __name__ == "__main__":
    main()
