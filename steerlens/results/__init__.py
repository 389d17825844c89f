"""What every analysis returns: arrays with named axes, and what is read from their annotations."""

from steerlens.results.cell import Cell as Cell
from steerlens.results.frames import Column as Column
from steerlens.results.result import DamagedResult as DamagedResult
from steerlens.results.result import Result as Result
from steerlens.results.result import ResultError as ResultError
from steerlens.results.result import chosen_cell as chosen_cell
from steerlens.results.result import headline_numbers_of as headline_numbers_of
from steerlens.results.result import headline_of as headline_of
from steerlens.results.row_result import RowResult as RowResult
from steerlens.results.summary_lines import labelled as labelled
from steerlens.results.summary_lines import summary_rows as summary_rows
