"""The names of what a comparison of features compares: the arms, and the random controls."""

from __future__ import annotations

from typing import Literal

Cost = Literal["kl", "utility"]
"""What is equal for all arms: KL on ordinary text, or the loss of utility."""

BY_CONTRAST = "feature by contrast"
"""The best of the features that separate the two sides of the contrast best."""
TOGETHER = "features together"
"""The sum of these features."""
BY_EFFECT = "feature by effect"
"""The best of the features with the largest effect on the choosing questions."""
SEARCHED = "random direction by effect"
"""The best of as many random directions as there are features, searched in the same way."""
DIFFMEAN = "DiffMean"
TARGETED = "SAE-TS"
"""The vector that should raise one feature of the written text and leave the others."""
ARMS_WITHOUT_TARGETED = (BY_CONTRAST, TOGETHER, BY_EFFECT, SEARCHED, DIFFMEAN)
ARMS = (*ARMS_WITHOUT_TARGETED, TARGETED)

RANDOM_FEATURE, RANDOM_DIRECTION = "random feature", "random direction"
CONTROLS = (RANDOM_FEATURE, RANDOM_DIRECTION)
"""Each repetition is the best of a few random ones."""
