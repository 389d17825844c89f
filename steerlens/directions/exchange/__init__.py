"""Import and export of directions in shared formats: one file each, with `export` and `load`.

`gguf` (llama.cpp, repeng), `steering_vectors`, `neuronpedia`, `plain` (tensors without facts), and,
to read only, `steerkit` and `repsteer`. Files from other software state few facts; the others follow
from its conventions or are required arguments. No code in a file is ever run.
"""

from steerlens.directions.exchange import gguf as gguf
from steerlens.directions.exchange import neuronpedia as neuronpedia
from steerlens.directions.exchange import plain as plain
from steerlens.directions.exchange import repsteer as repsteer
from steerlens.directions.exchange import steering_vectors as steering_vectors
from steerlens.directions.exchange import steerkit as steerkit
from steerlens.directions.exchange.required_facts import MissingFacts as MissingFacts
