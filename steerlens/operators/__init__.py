"""Operators that are found on data: pairs of texts in, an intervention out."""

from steerlens.operators.cache_steering import cache_steering as cache_steering
from steerlens.operators.condition_search import ConditionSearch as ConditionSearch
from steerlens.operators.condition_search import Triggers as Triggers
from steerlens.operators.condition_search import find_condition as find_condition
from steerlens.operators.condition_search import triggers as triggers
from steerlens.operators.sadi import sadi as sadi
