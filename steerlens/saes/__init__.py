"""Sparse autoencoders: load, train, measure and steer. Needs the extra ``steerlens[sae]``.

The only package that imports sae_lens, and only when an SAE is loaded or trained.
"""

from steerlens.saes.feature_adapter import FeatureAdapter as FeatureAdapter
from steerlens.saes.feature_edits import AblateFeature as AblateFeature
from steerlens.saes.feature_edits import AddFeature as AddFeature
from steerlens.saes.feature_edits import ClampFeature as ClampFeature
from steerlens.saes.feature_edits import EditFeatures as EditFeatures
from steerlens.saes.quality import SAEQuality as SAEQuality
from steerlens.saes.quality import observe as observe
from steerlens.saes.quality import quality as quality
from steerlens.saes.releases import releases as releases
from steerlens.saes.sae import SAE as SAE
from steerlens.saes.sae import SAEError as SAEError
from steerlens.saes.training import train_saes as train_saes
