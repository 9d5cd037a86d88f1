"""The wheel and the source distribution, as `./test` builds them.

WHEEL_DIST is the directory where they are, WHEEL_DEPINFO the file in which the compiler wrote what it
read. Without them there is nothing to look at here.
"""

import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
CRATE = ROOT / "crates/lockbay-python"

if "WHEEL_DIST" not in os.environ:
    pytest.skip("there is no WHEEL_DIST, which ./test makes", allow_module_level=True)

DIST = Path(os.environ["WHEEL_DIST"])
DEPINFO = Path(os.environ["WHEEL_DEPINFO"])


def one(pattern: str) -> Path:
    found = list(DIST.glob(pattern))
    assert len(found) == 1, found
    return found[0]


def test_the_wheel_is_for_every_python_from_3_11() -> None:
    assert re.fullmatch(r"lockbay-[\d.]+-cp311-abi3-\w*linux\w*\.whl", one("*.whl").name)


def test_the_wheel_has_the_package_its_types_and_its_licences_and_nothing_else() -> None:
    with zipfile.ZipFile(one("*.whl")) as wheel:
        names = {name for name in wheel.namelist() if not name.endswith("/")}
        metadata = wheel.read(next(name for name in names if name.endswith("/METADATA"))).decode()
    package = {name for name in names if ".dist-info/" not in name}
    sources = {
        str(path.relative_to(CRATE / "python"))
        for path in (CRATE / "python").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts and path.suffix != ".so"
    }
    assert package == {*sources, "lockbay/_lockbay.abi3.so"}
    assert {"lockbay/py.typed", "lockbay/_lockbay.pyi"} <= package
    licences = {Path(name).name for name in names if "/licenses/" in name}
    assert licences == {"LICENSE-APACHE", "LICENSE-MIT"}
    needed = [line for line in metadata.splitlines() if line.startswith("Requires-Dist")]
    assert all("extra ==" in line for line in needed), needed


def test_the_wheel_is_installed_into_an_empty_environment_and_imported(tmp_path: Path) -> None:
    venv.create(tmp_path, with_pip=False)
    python = str(tmp_path / "bin/python")
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--python", python]
    subprocess.run([*pip, "install", "--quiet", "--no-index", str(one("*.whl"))], check=True)
    script = "import lockbay; print(lockbay.__version__)"
    ran = subprocess.run([python, "-I", "-c", script], capture_output=True, text=True, check=True)
    assert f"lockbay-{ran.stdout.strip()}-" in one("*.whl").name


def test_the_source_distribution_has_all_that_the_wheel_is_made_of() -> None:
    """What the compiler has read of this repository, and what maturin packs, byte for byte."""
    read = DEPINFO.read_text().replace("\\ ", " ").split(": ", 1)[1]
    compiled = {Path(path).resolve().relative_to(ROOT) for path in read.split()}
    assert len(compiled) > 100, "the compiler has read something else"
    manifests = {Path("crates", path.parts[1], "Cargo.toml") for path in compiled}
    with tarfile.open(one("*.tar.gz")) as archive:
        packed = {
            Path(*Path(member.name).parts[1:]): content.read()
            for member in archive
            if (content := archive.extractfile(member)) is not None
        }
    wrong = [path for path in compiled if packed.get(path) != (ROOT / path).read_bytes()]
    assert not wrong
    beside = ["Cargo.toml", "Cargo.lock", "pyproject.toml", "python/lockbay/_lockbay.pyi"]
    assert {*manifests, *map(Path, beside)} <= packed.keys()
