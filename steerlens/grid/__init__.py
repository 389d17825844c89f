"""Grids of experiments: every combination of some fields, each an ordinary run, on several workers.

    run_grid(experiment, {"seed": (0, 1, 2), "method": ("DiffMean", "PCA")}, workers=2)

`grid_cells` makes the combinations and refuses those that cannot work. `schedule` hands them to
workers and does again what a killed worker left; an engine (`Local`, `OnRay`) starts the workers and
carries messages. A worker loads a model once and keeps it for its next runs.
"""

from steerlens.grid.engines import Engine as Engine
from steerlens.grid.engines import EngineError as EngineError
from steerlens.grid.grid_cells import GridCell as GridCell
from steerlens.grid.grid_cells import grid_cells as grid_cells
from steerlens.grid.grid_runs import GridRuns as GridRuns
from steerlens.grid.local_engine import Local as Local
from steerlens.grid.ray_engine import OnRay as OnRay
from steerlens.grid.run_grid import run_grid as run_grid
