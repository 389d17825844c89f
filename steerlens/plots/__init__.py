"""Arrays in, plotly figures out: every picture of the project is drawn here, one kind a file.

Nothing in this package knows a model, a file format or another part of `steerlens`, and no global
plotly setting is touched: `look.house` writes the house look into each figure.

Three rules hold for every figure. A number that was not measured (NaN) is shown as missing, never
as zero. Every number drawn can be read on hover. Colours are safe for colour-blind readers (Okabe
and Ito's palette; ColorBrewer RdBu for signed values). Input that cannot be drawn (shapes that
disagree, an infinite value, an interval upside down) raises a ValueError.
"""

from steerlens.plots.after_switch_off import fading_curves as fading_curves
from steerlens.plots.components import component_effects as component_effects
from steerlens.plots.cosine_matrix import cosine_matrix as cosine_matrix
from steerlens.plots.curves import dose_response as dose_response
from steerlens.plots.curves import layer_curve as layer_curve
from steerlens.plots.decisions import decision_matrix as decision_matrix
from steerlens.plots.features import feature_card as feature_card
from steerlens.plots.heatmap import layer_heatmap as layer_heatmap
from steerlens.plots.html import to_html_div as to_html_div
from steerlens.plots.learning import learning_curve as learning_curve
from steerlens.plots.learning import rate_curve as rate_curve
from steerlens.plots.learning import share_lines as share_lines
from steerlens.plots.long_texts import long_texts as long_texts
from steerlens.plots.look import FONT as FONT
from steerlens.plots.look import MONO as MONO
from steerlens.plots.many_runs import run_dots as run_dots
from steerlens.plots.many_runs import run_heatmap as run_heatmap
from steerlens.plots.measured_dots import measured_dots as measured_dots
from steerlens.plots.measured_lines import measured_lines as measured_lines
from steerlens.plots.panels import change_panels as change_panels
from steerlens.plots.paper import PictureError as PictureError
from steerlens.plots.paper import Theme as Theme
from steerlens.plots.paper import paper as paper
from steerlens.plots.paper import require_drawing as require_drawing
from steerlens.plots.paper import write_figure as write_figure
from steerlens.plots.preferences import preference_curve as preference_curve
from steerlens.plots.probe import probe_against_steering as probe_against_steering
from steerlens.plots.radar import FEWEST_SPOKES as FEWEST_SPOKES
from steerlens.plots.radar import Spoke as Spoke
from steerlens.plots.radar import criteria_radar as criteria_radar
from steerlens.plots.radar import spoke_scale as spoke_scale
from steerlens.plots.regret import regret_curve as regret_curve
from steerlens.plots.roc import roc_curve as roc_curve
from steerlens.plots.row_dots import row_dots as row_dots
from steerlens.plots.running import running_difference as running_difference
from steerlens.plots.shift import shift_dots as shift_dots
from steerlens.plots.shift import shift_scatter as shift_scatter
from steerlens.plots.side_effects import gain_heatmap as gain_heatmap
from steerlens.plots.side_effects import gain_lines as gain_lines
from steerlens.plots.slopes import example_slopes as example_slopes
from steerlens.plots.steerability import steerability_figure as steerability_figure
from steerlens.plots.strength_laws import law_curves as law_curves
from steerlens.plots.strength_laws import law_errors as law_errors
from steerlens.plots.token_map import token_heatmap as token_heatmap
from steerlens.plots.tokens import token_colours as token_colours
from steerlens.plots.tokens import token_heat as token_heat
from steerlens.plots.tokens import visible as visible
from steerlens.plots.tradeoff import tradeoff as tradeoff
from steerlens.plots.validity import preference_against_utility as preference_against_utility
from steerlens.plots.validity import validity_curves as validity_curves
from steerlens.plots.way_figures import criteria_dots as criteria_dots
from steerlens.plots.way_figures import nearness_curves as nearness_curves
from steerlens.plots.way_figures import way_curves as way_curves
from steerlens.plots.written import written_shares as written_shares
