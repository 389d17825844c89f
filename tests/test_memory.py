"""How much memory is free: the machine's, a container's, a limit's; and errors of too little."""

from __future__ import annotations

import pytest
import torch

from steerlens.directions import Direction
from steerlens.interventions import Add
from steerlens.measures.sweep import sweep
from steerlens.models import memory
from steerlens.models.model import Model
from steerlens.sites import Site

CPU = torch.device("cpu")
GB = 2**30


@pytest.fixture
def group(tmp_path):
    """Writes a control group's files, and gives what its members may still use."""

    def write(line: str, files: dict[str, dict[str, str]]) -> list[int]:
        for folder, texts in files.items():
            (tmp_path / folder).mkdir(parents=True, exist_ok=True)
            for name, text in texts.items():
                (tmp_path / folder / name).write_text(text)
        (tmp_path / "of_this_process").write_text(line)
        return list(memory._rooms_of_groups(tmp_path / "of_this_process", tmp_path))

    return write


def used(limit: str, now: int, inactive: int) -> dict[str, str]:
    stat = f"anon 5\ninactive_file {inactive}\n"
    return {"memory.max": limit, "memory.current": str(now), "memory.stat": stat}


def test_the_least_of_a_group_and_of_those_around_it_holds(group):
    found = group(
        "0::/outer/inner\n",
        {"outer/inner": used(f"{4 * GB}", GB, 0), "outer": used(f"{3 * GB}", 2 * GB, GB // 2)},
    )
    assert found == [3 * GB, GB + GB // 2]
    assert group("0::/outer/inner\n", {"outer/inner": used("max", GB, 0)}) == [GB + GB // 2]


def test_the_first_version_has_other_names(group):
    files = {
        "memory.limit_in_bytes": f"{2 * GB}\n",
        "memory.usage_in_bytes": f"{GB}\n",
        "memory.stat": f"cache 7\ninactive_file 3\ntotal_inactive_file {GB // 4}\n",
    }
    line = "3:cpu,cpuacct:/box\n2:memory:/box\n0::/\n"
    assert group(line, {"memory/box": files}) == [GB + GB // 4]


def test_in_a_container_the_root_is_its_own_group(group):
    assert group("0::/docker/abc\n", {".": used(f"{2 * GB}", GB, 0)}) == [GB]
    assert list(memory._rooms_of_groups(memory.Path("/nowhere"))) == []


def test_the_smallest_room_counts(monkeypatch):
    everything = memory.free_bytes(CPU)
    monkeypatch.setattr(memory, "_rooms_of_groups", lambda: iter([1000]))
    assert everything > memory.free_bytes(CPU) == 1000
    monkeypatch.setattr(memory, "_room_of_addresses", lambda: iter([-5]))
    assert memory.free_bytes(CPU) == 0


def test_a_limit_of_address_space_counts(monkeypatch):
    resource = pytest.importorskip("resource")
    size = memory.psutil.Process().memory_info().vms
    limits = (size + 64 * 2**20, resource.RLIM_INFINITY)
    monkeypatch.setattr(resource, "getrlimit", lambda which: limits)
    assert 0 < memory.free_bytes(CPU) <= 64 * 2**20


def test_what_torch_and_python_say_is_understood():
    with pytest.raises(RuntimeError) as torchs:
        torch.empty(2**45)  # 128 TiB: more than an address can name
    assert memory.is_out_of_memory(torchs.value)
    assert memory.is_out_of_memory(MemoryError())
    assert not memory.is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


def test_rows_are_halved_until_they_fit():
    sizes = []

    def run(chunk: slice) -> torch.Tensor:
        sizes.append(chunk.stop - chunk.start)
        if sizes[-1] > 3:
            raise MemoryError
        return torch.arange(chunk.start, chunk.stop)

    assert memory.in_chunks(run, 8, 8).tolist() == list(range(8))
    assert sizes == [8, 4, 2, 2, 2, 2]
    with pytest.raises(MemoryError):
        memory.in_chunks(lambda chunk: run(slice(0, 9)), 8, 8)


def test_a_sweep_with_little_room_gives_the_same_numbers(planted_data, planted):
    model, questions = Model(planted.model), planted_data[1][:6]
    edits = [Add(Direction(torch.ones(model.d_model), Site(layer)), unit=2.0) for layer in range(3)]
    strengths = [k / 10 for k in range(-3, 4)]
    much = sweep(model, questions, edits, strengths, progress=False)
    little = sweep(model, questions, edits, strengths, memory=8 * 2**20, progress=False)
    least = sweep(model, questions, edits, strengths, memory=1, progress=False)
    torch.testing.assert_close(little.log_odds, much.log_odds, atol=1e-4, rtol=0)
    torch.testing.assert_close(least.log_odds, much.log_odds, atol=1e-4, rtol=0)
