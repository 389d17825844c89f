"""Everything that a training needs to go on: parameters, moments, losses, the best state."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from steerlens.store.files import DamagedFile
from steerlens.store.tensors import read_tensors, write_tensors
from steerlens.training.training_errors import TrainingError

CHECKPOINT = "checkpoint.safetensors"
KIND = "steerlens.training/1"


@dataclass(eq=False)
class TrainingState:
    """The mutable state of one training."""

    params: dict[str, Tensor]
    optimiser: torch.optim.Optimizer
    losses: list[float] = field(default_factory=list)
    looks: list[int] = field(default_factory=list)
    validation: list[Tensor] = field(default_factory=list)
    """Losses of all validation pairs at each look; empty where there is no validation."""
    best: dict[str, Tensor] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Steps that were made."""
        return len(self.losses)

    def keep_best(self) -> None:
        """Takes the parameters as the best ones."""
        self.best = {name: value.detach().clone() for name, value in self.params.items()}

    def save(self, folder: Path, work: Mapping[str, str]) -> None:
        """Writes a checkpoint, atomically.

        Args:
            work: What is trained on what, by which `resume` knows it.

        Raises:
            StorageError: If it cannot be written.
        """
        tensors = {f"param/{name}": value for name, value in self.params.items()}
        tensors |= {f"best/{name}": value for name, value in self.best.items()}
        for k, moments in self.optimiser.state_dict()["state"].items():
            tensors |= {f"moment/{k}/{name}": value for name, value in moments.items()}
        tensors["losses"] = torch.tensor(self.losses, dtype=torch.float64)
        tensors["looks"] = torch.tensor(self.looks, dtype=torch.long)
        if self.validation:
            tensors["validation"] = torch.stack(self.validation)
        write_tensors(folder / CHECKPOINT, tensors, states={"kind": KIND, **work})

    def resume(self, folder: Path, work: Mapping[str, str]) -> bool:
        """Goes on from the checkpoint of a folder; False where there is none.

        Raises:
            TrainingError: If it is damaged, or of another training.
        """
        path = folder / CHECKPOINT
        try:
            found = read_tensors(path, states={"kind": KIND, **work})
        except FileNotFoundError:
            return False
        except DamagedFile as error:
            raise TrainingError(
                f"{error} Give another folder for another training, or delete {path} to begin this "
                "one anew."
            ) from error
        with torch.no_grad():
            for name, value in self.params.items():
                value.copy_(found[f"param/{name}"])
        states: dict[int, dict[str, Tensor]] = {}
        for name, value in found.items():
            if name.startswith("moment/"):
                _, number, moment = name.split("/", 2)
                states.setdefault(int(number), {})[moment] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": states, "param_groups": groups})
        self.losses = found["losses"].tolist()
        self.looks = found["looks"].tolist()
        self.validation = list(found["validation"]) if "validation" in found else []
        self.best = {
            name.removeprefix("best/"): value
            for name, value in found.items()
            if name.startswith("best/")
        }
        return True
