#!/usr/bin/env python3
"""LockBay's Python package beside its peers, in one run on one machine.

    benches/python/compare.py [--seconds N] [--only NAME]

It makes a virtual environment under target/, installs the peers from the package index and the
wheel of this tree, built with optimizations, and starts a Redis server of its own. Rounds of both
sides alternate, and the median of the rounds counts; of the overhead, their fastest. It prints one JSON object a line, and what
the figures come to. Nothing here is a test.
"""

from __future__ import annotations

import argparse
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
ENVIRONMENT = ROOT / "target" / "compare"
PYTHON = ENVIRONMENT / "bin" / "python"


def prepare() -> None:
    """The environment with the peers, and the package of this tree."""
    if not PYTHON.exists():
        subprocess.run([sys.executable, "-m", "venv", str(ENVIRONMENT)], check=True)
    install = [str(PYTHON), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*install, "-r", str(HERE / "requirements.txt")], check=True)
    wheels = ROOT / "target" / "compare-wheels"
    shutil.rmtree(wheels, ignore_errors=True)
    build = [str(ENVIRONMENT / "bin" / "maturin"), "build", "--release", "--out", str(wheels)]
    manifest = ROOT / "crates" / "lockbay-python" / "Cargo.toml"
    subprocess.run([*build, "--quiet", "--manifest-path", str(manifest)], check=True)
    (wheel,) = wheels.glob("*.whl")
    subprocess.run([*install, "--force-reinstall", "--no-deps", str(wheel)], check=True)
    server = ["cargo", "build", "--quiet", "--release", "-p", "lockbay-server"]
    subprocess.run(server, check=True, cwd=ROOT)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=5.0, help="how long a round takes")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=["overhead", "powertools", "dbos", "leak"])
    parser.add_argument("--installed", action="store_true", help="install and build nothing")
    asked = parser.parse_args()
    if not asked.installed:
        prepare()
    command = [str(PYTHON), str(HERE / "rounds.py"), str(asked.seconds), str(asked.rounds)]
    if asked.only:
        command.append(asked.only)
    binary = ROOT / "target" / "release" / "lockbay"
    return subprocess.run(command, env={**os.environ, "LOCKBAY_BINARY": str(binary)}).returncode


if __name__ == "__main__":
    sys.exit(main())
