"""Fields of every experiment: equal values give equal runs, whatever their type; others are refused."""

from __future__ import annotations

import dataclasses
import enum
import hashlib
import json
import math
from collections.abc import Sequence
from decimal import Decimal
from fractions import Fraction
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    Optional,
    Union,
    get_args,
    get_origin,
    get_type_hints,
)

import numpy as np
import pytest
import torch

from steerlens import (
    ComparisonExperiment,
    ProbingExperiment,
    SAEExperiment,
    SteerabilityExperiment,
)
from steerlens.directions.methods import PCA, Logistic
from steerlens.experiment import Experiment
from steerlens.experiment.experiment_data import ExperimentError
from steerlens.experiment.field_values import plain

if TYPE_CHECKING:
    from nowhere import Unknown  # pyright: ignore[reportMissingImports]

pytestmark = pytest.mark.usefixtures("unchecked")


@dataclasses.dataclass(frozen=True)
class Setting:
    """A value that is an object."""

    strength: float = 0.5


@dataclasses.dataclass(frozen=True, kw_only=True)
class Own(Experiment):
    """An experiment as a user writes it, with fields of every kind."""

    draws: int = 3
    rate: float = 0.1
    loud: bool = True
    word: str = "so"
    pair: tuple[int, float] = (1, 0.5)
    scales: Sequence[float] = (0.5, 1.0)
    mode: Literal["fast", "slow"] = "fast"
    either: int | str = 3
    none_first: Union[None, int] = None  # noqa: UP007 (as old code writes it)
    implied: int = None  # type: ignore[assignment]
    file: str | Path = "a"
    anything: Any = None
    setting: Setting = Setting()
    unread: Unknown | None = None
    table: dict[str, int] = dataclasses.field(default_factory=dict)

    def measure(self, run):
        raise NotImplementedError


CLASSES = (SteerabilityExperiment, ProbingExperiment, SAEExperiment, ComparisonExperiment, Own)


class Word(str, enum.Enum):
    SO = "so"


def kinds(of):
    """What a field holds: int, float, bool, str, or a tuple of one of them; and whether None."""
    inner = get_args(of)
    if type(None) in inner and get_origin(of) is not Literal:
        return kinds(next(one for one in inner if one is not type(None)))[0], True
    if get_origin(of) is tuple and inner[-1] is ...:
        return (inner[0],), False
    return (str if get_origin(of) is Literal else of), False


FIELDS = [
    pytest.param(cls, f.name, *kinds(hints[f.name]), id=f"{cls.__name__}.{f.name}")
    for cls in CLASSES
    for hints in [get_type_hints(cls, localns={"Unknown": Any})]
    for f in dataclasses.fields(cls)
    if kinds(hints[f.name])[0] in (int, float, bool, str, (int,), (float,), (str,))
    and f.name != "implied"
]

SPECIAL = {"null_products": "bfloat16", "also": ("reviews/negation", "reviews/topic")}
GIVEN = {
    bool: True,
    int: 4,
    float: 0.3,
    str: "x",
    (int,): (1, 2),
    (float,): (0.0, 0.3, 1.0),
    (str,): ("a", "b"),
}

ALIKE = {
    int: [np.int64, np.uint8, np.array, torch.tensor, lambda x: torch.tensor([x])],
    float: [np.float64, np.float32, np.array, torch.tensor, Fraction, lambda x: Decimal(repr(x))],
    bool: [np.bool_, np.array, torch.tensor],
    str: [np.str_, np.array],
    (int,): [list, np.array, torch.tensor, lambda x: tuple(torch.tensor(x)), iter],
    (float,): [list, np.float32, torch.tensor, lambda x: [*map(Fraction, map(repr, x))], iter],
    (str,): [list, np.array, lambda x: tuple(map(np.str_, x)), iter],
}

WRONG = {
    int: [1.5, 48.0, "48", True, [48], math.nan, 1j, torch.tensor(4.0), np.array([1, 2])],
    float: ["0.1", True, [0.1, 0.2], math.nan, math.inf, 1j, torch.tensor(math.nan), torch.ones(2)],
    bool: ["no", 1, 0.0, np.int64(1), [True, False], torch.tensor(1)],
    str: [3, True, ["x"], b"x", 0.5, torch.tensor(1), str],
    (int,): [4, "4", {4, 6}, {4: 6}, (4.0,), (True,), ("4",), torch.tensor(4), torch.ones(2, 2)],
    (float,): [0.5, "0.5", {0.0}, ("0.5",), (math.nan, 0.0), (0.0, True), torch.tensor(0.5)],
    (str,): ["abc", 3, {"abc"}, ("a", 3), (None,), Path("a")],
}


def value_of(cls, name, kind):
    """A value that the field can have: its default, or another where that is None or empty."""
    default = getattr(cls(), name)
    return SPECIAL.get(name, GIVEN[kind]) if default in (None, ()) else default


@pytest.mark.parametrize(("cls", "name", "kind", "optional"), FIELDS)
def test_equal_values_of_any_type_give_equal_runs(cls, name, kind, optional):
    value = value_of(cls, name, kind)
    chat = {"chat": True} if name == "system" else {}
    before = cls(**chat, **{name: value})
    for alike in ALIKE[kind]:
        after = cls(**chat, **{name: alike(value)})
        held = getattr(after, name)
        assert held == value and type(held) is type(value)
        if isinstance(value, tuple):
            assert [type(one) for one in held] == [type(one) for one in value]
        assert after == before and after.digest == before.digest
        assert json.dumps(after.fields()) == json.dumps(before.fields())
    if optional:
        assert getattr(cls(**{name: None}), name) is None


@pytest.mark.parametrize(("cls", "name", "kind", "optional"), FIELDS)
def test_a_value_of_another_kind_is_refused_by_the_name_of_its_field(cls, name, kind, optional):
    for wrong in [*WRONG[kind], object(), *([] if optional else [None])]:
        with pytest.raises(ExperimentError, match=rf"^{name}(\[\d\])?=.*\. (Write|Give|Use) "):
            cls(**{name: wrong})


@pytest.mark.parametrize("cls", CLASSES)
def test_plain_values_are_stated_as_they_were_written(cls):
    given = {"seed": 4, "layers": (1, 2), "dtype": "bfloat16", "prepend_bos": False, "n_fit": 30}
    experiment = cls(**given)
    stated = {"experiment": cls.__name__}
    for f in dataclasses.fields(cls):
        value = f.default_factory() if f.default is dataclasses.MISSING else f.default
        value = given.get(f.name, value)
        stated[f.name] = repr(value) if f.name in ("method", "setting") else value
    text = json.dumps(stated, sort_keys=True)
    assert experiment.digest == hashlib.sha256(text.encode()).hexdigest()[:10]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"layers": 4}, r"layers=4 is one value.*Write layers=\(4,\) for one\."),
        ({"layers": torch.tensor(4)}, r"layers=tensor\(4\) is one value.*Write layers=\(4,\) for"),
        ({"layers": np.array([4.0])}, r"layers\[0\]=.*is not a whole number. Write 4\."),
        ({"shifts": "abc"}, r"shifts='abc' is one value.*Write shifts=\('abc',\) for one\."),
        ({"chat": "no"}, "chat='no' is not a bool. Write True or False."),
        ({"n_fit": 48.0}, "n_fit=48.0 is not a whole number. Write 48."),
        ({"budget": math.nan}, "budget=nan is not finite. Give a finite number."),
        (
            {"dtype": torch.float64},
            "dtype=torch.float64 is none of the values it can have. Use one",
        ),
        ({"stream": "resid"}, "stream='resid' is none of the values.*Use one of .*resid_post"),
        ({"positions": 3}, "positions=3 cannot be steered by name. Use one of all, last"),
        ({"system": Path("turn.txt"), "chat": True}, "system='turn.txt' is a path.*read_text"),
    ],
)
def test_the_error_says_what_to_write_instead(fields, said):
    with pytest.raises(ExperimentError, match=said):
        SteerabilityExperiment(**fields)


@pytest.mark.parametrize("cls", CLASSES)
def test_paths_devices_and_dtypes_are_texts(cls, tmp_path):
    file = tmp_path / "pairs.jsonl"
    plain_one = cls(contrast=str(file), model=str(tmp_path), dtype="bfloat16", device="cuda:1")
    other = cls(contrast=file, model=tmp_path, dtype=torch.bfloat16, device=torch.device("cuda", 1))
    assert other == plain_one and other.digest == plain_one.digest
    assert type(other.contrast) is type(other.dtype) is type(other.device) is str


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("value", [0.1, 0.3, -0.7, 2.5, 1.0, 0.0])
def test_a_number_in_low_precision_is_the_one_that_was_written(dtype, value):
    assert plain("x", torch.tensor(value, dtype=dtype), float) == value


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(
    "value",
    [np.float16(65504), torch.tensor(1004.0, dtype=torch.bfloat16), np.float32(3.4028235e38),
     np.float64(1 / 3), torch.tensor(1 / 3, dtype=torch.float64)],
)  # fmt: skip
def test_a_whole_number_and_one_in_full_precision_are_kept_exactly(value):
    assert plain("x", value, float) == value.item()


def test_fields_of_a_users_own_experiment():
    own = Own(
        draws=torch.tensor(5), pair=[np.int8(2), 1], scales=torch.tensor([0.1, 2.0]), word=Word.SO,
        either=torch.tensor(7), none_first=np.int64(1), implied=np.int64(2), mode=np.str_("slow"),
    )  # fmt: skip
    assert own == Own(
        draws=5, pair=(2, 1.0), scales=(0.1, 2.0), either=7, none_first=1, implied=2, mode="slow"
    )
    assert (type(own.word), own.word) == (str, "so")
    assert Own(either="seven").either == "seven" and type(Own(either=7).either) is int
    with pytest.raises(ExperimentError, match=r"either=7.5 is not a whole number"):
        Own(either=7.5)
    with pytest.raises(ExperimentError, match="none_first='a' is not a whole number"):
        Own(none_first="a")
    with pytest.raises(ExperimentError, match="pair=.* must hold 2 values"):
        Own(pair=(1, 2, 3))


def test_fields_of_other_types_keep_what_they_hold():
    tensor, kept = torch.ones(2), object()
    own = Own(anything=tensor, unread=kept, setting=Setting(2), file=Path("b"), table={"a": 1})
    assert own.anything is tensor and own.unread is kept and own.setting == Setting(2)
    assert own.file == Path("b") and own.table == {"a": 1}
    assert Own(anything=np.arange(2)).anything == (0, 1) and Own(unread=[1, [2]]).unread == (
        1,
        (2,),
    )
    assert repr(ProbingExperiment(method="PCA").method) == repr(PCA())
    assert repr(ProbingExperiment().method) == repr(Logistic())


def test_a_union_keeps_the_type_that_was_given():
    assert type(plain("x", 3, float | int)) is int
    assert type(plain("x", torch.tensor(3), float | int)) is int
    assert type(plain("x", 0.5, int | float | None)) is float
    assert plain("x", True, int | bool) is True
    assert plain("x", None, Optional[tuple[int, ...]]) is None  # noqa: UP045


def test_a_run_of_tensors_is_the_run_of_the_numbers(tmp_path):
    few = {"contrast": "reviews/sentiment", "controls": 1, "folds": 2}
    run = ProbingExperiment(
        n_fit=torch.tensor(20), layers=torch.tensor([2]), seed=torch.tensor(1), chat=np.bool_(False),
        dtype=torch.float32, **few,
    ).run(tmp_path, progress=False)  # fmt: skip
    fields = json.loads((run.folder / "manifest.json").read_text())["fields"]
    assert [fields[name] for name in ("n_fit", "layers", "seed", "chat", "dtype")] == [
        20, [2], 1, False, "float32",
    ]  # fmt: skip
    again = ProbingExperiment(n_fit=20, layers=(2,), seed=1, **few)
    assert again.run_folder(tmp_path) == run.folder
