"""The kernels of this package inside models of other libraries."""

from modernbert.integrations.acceleration import Acceleration, accelerate, acceleration_of, restore
from modernbert.integrations.backbone import original_computes

__all__ = ["Acceleration", "accelerate", "acceleration_of", "original_computes", "restore"]
