"""The peers' environment: made once below `benchmarks/.env`, and made anew when its pins change."""

from __future__ import annotations

import subprocess
import sys
from hashlib import sha256
from pathlib import Path

HERE = Path(__file__).parent
ENV = HERE / ".env"
PINS = HERE / "peers-constraints.txt"
PACKAGES = ("steering-vectors", "repeng", "nnsight", "pyvene", "accelerate", "safetensors")


def peers_python() -> Path:
    """The interpreter of the peers' environment, which is created when missing.

    Raises:
        RuntimeError: If the packages do not install; the message holds the end of pip's output.
    """
    folder = ENV / "peers"
    python = folder / "bin" / "python"
    stamp = folder / "pins.sha256"
    wanted = sha256(PINS.read_bytes()).hexdigest()
    if stamp.exists() and stamp.read_text() == wanted:
        return python
    _checked([sys.executable, "-m", "venv", "--clear", str(folder)])
    pip = [str(python), "-m", "pip", "install", "--disable-pip-version-check"]
    torch = next(line for line in PINS.read_text().splitlines() if line.startswith("torch=="))
    # torch first and alone: a CPU wheel given by the user's pip settings is then kept by the rest.
    _checked([*pip, torch])
    _checked([*pip, "-c", str(PINS), *PACKAGES])
    stamp.write_text(wanted)
    return python


def _checked(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        tail = "\n".join((done.stdout + done.stderr).splitlines()[-15:])
        raise RuntimeError(
            f"{' '.join(command)} ended with {done.returncode}, so the peers cannot be timed. "
            f"Use --contestants to leave them out, or repair the environment:\n{tail}"
        )
