"""Kills at random moments lose nothing and change no bit; a request to stop ends in order."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from steerlens.store.run_folder import LOCK, is_finished, verify
from steerlens.store.stopping import Stopped, exit_status, stoppable

ROOT = Path(__file__).parents[1]


def files(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != LOCK
    }


@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills forked processes")
def test_kills_at_random_moments_change_no_file(tmp_path):
    seed = str(random.SystemRandom().randrange(10**6))
    script = [sys.executable, str(ROOT / "tests" / "killed_run.py"), str(tmp_path), "40", seed]
    done = subprocess.run(
        script,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) >= 4, f"seed {seed}: kills that hit a run at work"
    whole = files(tmp_path / "uninterrupted")
    for folder in (tmp_path / f"killed-{k}" for k in range(4)):
        assert is_finished(folder) and verify(folder) == [], f"seed {seed}"
        assert files(folder) == whole, f"seed {seed}: also no temporary file is left"


def test_sigterm_ends_the_work_by_an_exception():
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Stopped) as stop, stoppable():
        os.kill(os.getpid(), signal.SIGTERM)
        signal.pause()
    assert exit_status(stop.value) == 143 and exit_status(KeyboardInterrupt()) == 130
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_stopped_process_leaves_no_half_file_and_releases_the_lock(tmp_path):
    code = (
        "import sys, os, time; from pathlib import Path\n"
        "from steerlens.store.run_folder import RunFolder\n"
        "from steerlens.store.files import write_text\n"
        "from steerlens.store.stopping import stoppable\n"
        "real = os.fsync\n"
        "def slow(d): real(d); print('writing', flush=True); time.sleep(60)\n"
        "os.fsync = slow\n"
        "with stoppable():\n"
        "    try:\n"
        "        with RunFolder.open(sys.argv[1]) as folder:\n"
        "            write_text(folder.path / 'map.json', 'x')\n"
        "    except KeyboardInterrupt: print('stopped')\n"
    )
    ask = [sys.executable, "-c", code, str(tmp_path)]
    with subprocess.Popen(ask, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout and process.stdout.readline() == "writing\n"
        process.terminate()
        assert process.stdout.read() == "stopped\n"
    assert process.returncode == 0
    assert [path.name for path in tmp_path.iterdir()] == [LOCK]
