"""Resolves constraints.txt for every Python that pyproject.toml promises, without installing.

Each version is resolved with the published packages alone: a pin that has no release for one Python,
or two pins that exclude each other, end with an error. `make constraints` runs it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE_ONLY = ("py2store", "transformers-stream-generator")
"""Packages that publish no wheel. All others must have one."""
PLATFORM = "x86_64-manylinux_2_28"


def promised() -> list[str]:
    """The versions of Python in `requires-python`, e.g. ["3.10", "3.11"]."""
    text = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    found = re.search(r'requires-python = ">=3\.(\d+),<3\.(\d+)"', text)
    if found is None:
        sys.exit("pyproject.toml has no requires-python of the form >=3.x,<3.y. Write it so.")
    return [f"3.{minor}" for minor in range(int(found[1]), int(found[2]))]


def resolved(version: str) -> str | None:
    """The error of the resolver for one Python, or None if there is a solution."""
    with tempfile.TemporaryDirectory() as folder:
        command = [
            sys.executable, "-m", "uv", "pip", "compile", "--quiet", "--no-python-downloads",
            "--python-version", version, "--python-platform", PLATFORM, "--only-binary", ":all:",
            *(option for name in SOURCE_ONLY for option in ("--no-binary", name)),
            "--extra", "dev", "--extra", "ray", "--constraint", str(ROOT / "constraints.txt"),
            "--output-file", str(Path(folder) / "out.txt"), str(ROOT / "pyproject.toml"),
        ]  # fmt: skip
        run = subprocess.run(command, capture_output=True, text=True, cwd=folder)
    return None if run.returncode == 0 else run.stderr.strip()


def main() -> None:
    failed = 0
    for version in promised():
        error = resolved(version)
        print(f"Python {version}: {'resolved' if error is None else error}")
        failed += error is not None
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
