"""How far steering may go before it only breaks: validity-decay curves of preference and utility.

Both log-odds are a linear read-out times the share D(m) of the state that the later layers can
still use, which falls with the distance from where the steering line is closest to what the model
knows. One curve per (model, site, direction, data): its constants hold for no other.
"""

from steerlens.analyses.validity.decay_curve import Branch as Branch
from steerlens.analyses.validity.decay_curve import FittedCurve as FittedCurve
from steerlens.analyses.validity.decay_curve import ValidInterval as ValidInterval
from steerlens.analyses.validity.validity_fit import ValidityFit as ValidityFit
from steerlens.analyses.validity.validity_fit import enough_to_fit as enough_to_fit
from steerlens.analyses.validity.validity_fit import fit_validity as fit_validity
