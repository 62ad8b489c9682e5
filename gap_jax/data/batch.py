"""The types of examples and batches that all stages share."""

from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

Example = Mapping[str, Any]  # one example as a data source gives it: arrays and scalars by name
HostBatch = Mapping[str, np.ndarray]  # arrays of equal first axes, on the host
Batch = Mapping[str, jax.Array]  # the same on devices, as jitted functions see it
Transform = Callable[[Example, np.random.Generator], HostBatch]  # an example's augmentation
