"""Random features: `draw_features`, the maps it returns, and how to register one's own (docs/kernels.md)."""

from sggp.kernels.features.algebra import ConstantMap, LinearMap, ProductMap, SumMap
from sggp.kernels.features.base import FeatureMap
from sggp.kernels.features.categories import HammingMap, IndexMap, MixedMap
from sggp.kernels.features.dotproduct import DotProductTanimotoMap
from sggp.kernels.features.minhash import MinHashMap
from sggp.kernels.features.registry import DrawFeatures, draw_features
from sggp.kernels.features.stationary import FourierMap

__all__ = [
    "ConstantMap",
    "DotProductTanimotoMap",
    "DrawFeatures",
    "FeatureMap",
    "FourierMap",
    "HammingMap",
    "IndexMap",
    "LinearMap",
    "MinHashMap",
    "MixedMap",
    "ProductMap",
    "SumMap",
    "draw_features",
]
