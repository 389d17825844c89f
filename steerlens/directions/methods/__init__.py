"""Methods that compute a direction from the activations of both sides at one site. One file each."""

from steerlens.directions.methods.diffmean import DiffMean as DiffMean
from steerlens.directions.methods.lda import LDA as LDA
from steerlens.directions.methods.logistic import Logistic as Logistic
from steerlens.directions.methods.named import METHODS as METHODS
from steerlens.directions.methods.named import as_method as as_method
from steerlens.directions.methods.pca import PCA as PCA
from steerlens.directions.methods.random import Random as Random
