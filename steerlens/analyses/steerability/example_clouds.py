"""That the examples of a map fall into two kinds, which steering moves opposite ways."""

from __future__ import annotations

from collections import Counter

import torch

from steerlens import stats
from steerlens.analyses.steerability.map_numbers import MapNumbers
from steerlens.report.numbers import format_interval, format_number, format_signed, in_words

BY_ANSWER = 0.5
"""Share of the variance of slopes between answers from which they are said to follow the answer."""


def example_row(numbers: MapNumbers) -> int:
    """The row whose examples are looked at: the one that gains most, or else moves most."""
    return numbers.best_rows(1)[0]


def answer_artefact(numbers: MapNumbers) -> str:
    """That slopes follow the letter (or yes and no) of the positive answer, in words; else "".

    A direction fitted to answers of one letter holds the letter: steering then raises that letter
    where it is right and where it is wrong.
    """
    answers, i = numbers.answers, example_row(numbers)
    counts = {name: n for name, n in Counter(answers).items() if n >= 2}
    if len(counts) < 2 or sum(counts.values()) < len(answers):
        return ""
    slopes = numbers.slopes[i]
    if stats.explained_by(slopes, answers) < BY_ANSWER:
        return ""
    means = []
    for name in sorted(counts):
        own = torch.tensor([one == name for one in answers])
        groups = None if numbers.groups is None else numbers.groups[own]
        found = stats.interval_of_mean(slopes[own], groups)
        means.append(f"{format_interval(found, format_signed)} where it is {name}")
    return (
        f"**The slopes follow the letter of the answer.** At {numbers.row_name(i)} the mean slope is "
        f"{in_words(means)}. So steering raises a letter more than what it stands for. Balance the "
        "letters of the fitting pairs (`balanced_letters()`), or ask for words."
    )


def two_clouds(numbers: MapNumbers) -> str:
    """That slopes form two clouds on both sides of zero, in words; "" where they do not."""
    i = example_row(numbers)
    found = stats.two_clouds(numbers.slopes[i])
    if found is None:
        return ""
    upper = int(found.upper.sum())
    low, high = (format_signed(mean) for mean in found.means)
    return (
        f"**The examples fall into two clouds.** At {numbers.row_name(i)}, {upper} of them have slopes "
        f"around {high} and {len(found.upper) - upper} around {low}, and the two explain "
        f"{format_number(100 * found.explained)}% of the variance. Something that the examples differ "
        "in decides which way steering moves them, such as a negation or the order of the answers, "
        "and their mean describes neither cloud."
    )
