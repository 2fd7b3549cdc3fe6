"""`make bench-cold`: what the proxy's first answer waits for, beside a floor to compare with.

Both are whole processes, in turn, so that a slow moment of the machine meets both, with the packages of the layer
and no others. The floor imports boto3, makes a DynamoDB client, and imports httpx and pydantic; the proxy imports its
handler, which makes its parts.
"""

import argparse
import os
import statistics
import subprocess
import sys

from local.child import ROOT

MOST = 1.3
REQUIREMENTS = ROOT / "layers" / "dependencies" / "requirements.txt"
PACKAGES = ROOT / ".cache" / "cold"
FLOOR = "import boto3, httpx, pydantic; boto3.client('dynamodb')"
PROXY = "import functions.proxy.handler"
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join(map(str, (PACKAGES, ROOT / "layers" / "farebox", ROOT))),
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_ACCESS_KEY_ID": "local",
    "AWS_SECRET_ACCESS_KEY": "local",
    "FAREBOX_GATEWAY_KEY": "local-gateway-key",
    "FAREBOX_ADMIN_KEY": "local-admin-key",
}


def main() -> None:
    """Compare cold starts; exit 1 when the proxy's is above its share of the floor's."""
    parser = argparse.ArgumentParser(prog="python -m local.bench_cold", description=main.__doc__)
    parser.add_argument("--runs", type=int, default=21, help="of each (default: %(default)s)")
    options = parser.parse_args()
    _install()
    pairs = [(_seconds(FLOOR), _seconds(PROXY)) for _ in range(options.runs + 1)][1:]  # the first one compiles
    floors, proxies = zip(*pairs, strict=True)
    ratio = statistics.median(proxy / floor for floor, proxy in pairs)
    for name, times in (("floor", floors), ("proxy", proxies)):
        print(f"{name}  median {statistics.median(times):.3f} s  from {min(times):.3f} to {max(times):.3f} s CPU")
    print(f"ratio  median {ratio:.2f} of {options.runs} pairs; at most {MOST} is wanted")
    sys.exit(ratio > MOST)


def _install() -> None:
    """What the layer has, for this interpreter; once."""
    pip = ["pip", "--disable-pip-version-check", "install", "--quiet", "--require-hashes", "--no-deps", "--upgrade"]
    command = [sys.executable, "-m", *pip, "--target", str(PACKAGES), "-r", str(REQUIREMENTS)]
    subprocess.run(command, check=True)


def _seconds(code: str) -> float:
    """CPU time of a whole process: the machine may be busy with other things."""
    before = os.times()
    subprocess.run([sys.executable, "-S", "-c", code], check=True, cwd=ROOT, env=ENVIRONMENT)
    after = os.times()
    return after.children_user - before.children_user + after.children_system - before.children_system


if __name__ == "__main__":
    main()
