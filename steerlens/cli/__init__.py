"""The command line: `steerlens run | show | list | compare | doctor`."""

from steerlens.cli.command_line import main as main
from steerlens.cli.command_line import run_experiment as run_experiment
from steerlens.cli.command_line import run_file as run_file
