"""What a type checker sees through the door of the package. `make check` reads it; nothing runs it."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing_extensions import assert_type

    import steerlens as sl
    from steerlens.analyses.steerability.steerability_map import SteerabilityMap
    from steerlens.data import ContrastSet
    from steerlens.experiment import Run
    from steerlens.interventions import Add
    from steerlens.models.model import Model

    def types(pairs: ContrastSet) -> None:
        model = sl.Model.load("gpt2")
        assert_type(model, Model)
        assert_type(sl.steerability(model, pairs, pairs), SteerabilityMap)
        assert_type(sl.Add, type[Add])
        assert_type(sl.SteerabilityExperiment(nulls=20).run(), Run)
