"""Ways to find a direction: paired activations at one site in, a vector out. One file each."""

from steerlens.methods.diffmean import DiffMean as DiffMean
from steerlens.methods.lda import LDA as LDA
from steerlens.methods.logistic import Logistic as Logistic
from steerlens.methods.pca import PCA as PCA
from steerlens.methods.random import Random as Random
