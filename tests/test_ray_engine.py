"""Workers on Ray: the same bits, on one machine and on two nodes, with workers and a node killed.

Takes some minutes: make test-ray.
"""

from __future__ import annotations

import dataclasses
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from steerlens.experiment import load_experiment
from steerlens.grid import EngineError, OnRay, run_grid
from tests.test_run_grid import experiment, files

ROOT = Path(__file__).parents[1]
AXES = {"power": (1.0, 1.5, 2.0, 3.0), "layers": ((1,), (0, 1, 2, 3, 4, 5))}


def test_without_ray_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EngineError, match=r'pip install "steerlens\[ray\]"'):
        run_grid(experiment(), {"power": (1.0,)}, on="ray")


@pytest.fixture(scope="class")
def cluster():
    """Two nodes with a processor each, on this machine; gone before the test that starts its own,
    since Ray joins a cluster that runs on the machine."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray = pytest.importorskip("ray", reason="Ray is not installed: steerlens[ray]")
    from ray.cluster_utils import Cluster

    made = None
    for _ in range(3):  # Ray gives a node 30 s to start, which a busy machine may not keep
        try:
            made = Cluster(
                initialize_head=True, connect=False,
                head_node_args={"num_cpus": 1, "include_dashboard": False},
            )  # fmt: skip
            nodes = [made.add_node(num_cpus=1)]
            break
        except Exception as error:
            if made is not None:
                made.shutdown()
            why = error
    else:
        raise why
    ray.init(address=made.address, log_to_driver=False)
    made.wait_for_nodes()
    yield made, nodes
    ray.shutdown()
    made.shutdown()


@pytest.mark.ray
@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::ResourceWarning")
class TestCluster:
    def test_a_gpu_that_is_not_there_is_refused_at_once(self, cluster, tmp_path):
        started = time.monotonic()
        with pytest.raises(EngineError, match=r"1 GPU\(s\), and the cluster has 2 and 0 in all"):
            run_grid(
                experiment(device="cuda"), {"power": (1.0,)}, results=tmp_path, on=OnRay(cpus=1)
            )
        with pytest.raises(EngineError, match="2 GPU"):
            run_grid(experiment(), {"power": (1.0,)}, results=tmp_path, on=OnRay(cpus=1, gpus=2))
        with pytest.raises(EngineError, match=r"64 processor\(s\)"):
            run_grid(experiment(), {"power": (1.0,)}, results=tmp_path, on=OnRay(cpus=64))
        assert time.monotonic() - started < 20
        assert not list(tmp_path.iterdir())

    def test_workers_and_a_node_that_are_killed_change_nothing(self, cluster, tmp_path):
        """Two processes are killed and a node is removed, at random moments of a run.

        A run takes some tenths of a second, so the moments are soon after it was given.
        """
        made, nodes = cluster
        rng, lines, victims = random.Random(0), [], []

        class Killing(OnRay):
            """Kills what it has just given work to, and removes a node."""

            given = 0

            def give(self, worker: int, experiment: bytes, name: str, again: bool) -> None:
                super().give(worker, experiment, name, again)
                Killing.given += 1
                if Killing.given in (2, 5):
                    self._later(lambda: self._kill_process(worker))
                if Killing.given == 3:
                    self._later(lambda: made.remove_node(nodes.pop(), allow_graceful=False))

            def _later(self, do) -> None:
                timer = threading.Timer(rng.uniform(0, 0.03), do)
                timer.daemon = True
                timer.start()
                victims.append(timer)

            def _kill_process(self, worker: int) -> None:
                actor = self._actors.get(worker)
                if actor is None or actor.pid is None:
                    return
                os.kill(actor.pid, signal.SIGKILL)

        found = run_grid(
            experiment(), AXES, results=tmp_path / "ray", name="stranger", workers=2,
            on=Killing(cpus=1, patience=400), progress=lines.append,
        )  # fmt: skip
        for timer in victims:
            timer.join()
        assert len(victims) == 3 and not nodes
        assert not found.failed, "\n".join(lines)
        assert any("is begun again" in line for line in lines), "\n".join(lines)
        assert len([line for line in lines if line.startswith("[")]) == len(found.runs)
        for run, power in ((found.runs[0], 1.0), (found.runs[-2], 3.0)):
            alone = experiment(power=power).run(tmp_path, name="stranger", progress=False)
            assert files(run.folder) == files(alone.folder)


@pytest.mark.ray
def test_a_cluster_is_started_here_and_ended_with_the_grid(tmp_path):
    pytest.importorskip("ray", reason="Ray is not installed: steerlens[ray]")
    said = subprocess.run(
        [
            sys.executable, "-m", "steerlens", "run", str(ROOT / "tests" / "stranger_experiment.py"),
            "--n-fit", "8", "--layers", "1", "--grid", "power=1.0,2.0", "--on", "ray",
            "--workers", "2", "--threads", "1", "--results", str(tmp_path),
        ],
        capture_output=True, text=True, timeout=600,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert said.returncode == 0, said.stderr
    assert [line[:5] for line in said.stderr.splitlines() if line[:1] == "["] == ["[1/2]", "[2/2]"]
    asked = load_experiment(ROOT / "tests" / "stranger_experiment.py")  # as the command reads it
    alone = dataclasses.replace(asked, n_fit=8, layers=(1,), power=2.0)
    folder = alone.run(tmp_path / "alone", name="stranger_experiment", progress=False).folder
    assert files(tmp_path / folder.name) == files(folder)
