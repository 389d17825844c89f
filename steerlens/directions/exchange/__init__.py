"""Directions in the formats that people share, to and from: one file each, with `export` and `load`.

`gguf` (llama.cpp, repeng), `steering_vectors`, and `plain` (a tensor and nothing else). A foreign
file states little; what it leaves out is known from the maker's convention, or asked for. Nothing
here can run code that a file holds.
"""

from steerlens.directions.exchange import gguf as gguf
from steerlens.directions.exchange import plain as plain
from steerlens.directions.exchange import steering_vectors as steering_vectors
from steerlens.directions.exchange.asking import MissingFacts as MissingFacts
