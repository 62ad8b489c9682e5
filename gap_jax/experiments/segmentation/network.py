"""Segmentation models as networks of the closed loop."""

from functools import partial

import jax
import jax.numpy as jnp

from gap_jax.models.network import Network
from gap_jax.models.torch_modules.module import TorchModule, as_network
from gap_jax.weights.torch_models.segmentation import load_segmentation, save_segmentation


def load_network(model: str, count: int | None = None) -> Network:
    """Load a segmentation model as a network; `model` is `load_segmentation`'s.

    Raises ValueError unless it tells `count` classes, if that is given.
    """
    module, params = load_segmentation(model)
    save = partial(save_segmentation, module)
    if isinstance(module, TorchModule):
        network = as_network(module, params)._replace(save=save)
    else:
        network = Network(lambda p, images: module.apply({"params": p}, images), params, save=save)
    if count is not None and (found := num_classes(network)) != count:
        raise ValueError(
            f"the segmentation model {model} must tell {count} classes, those of the data; found {found}: "
            "give a model that was trained on these classes"
        )
    return network


def num_classes(network: Network) -> int:
    """Return the number of classes that a network tells, without computing a prediction."""
    images = jax.ShapeDtypeStruct((1, 64, 64, 3), jnp.float32)
    return jax.eval_shape(network.predict, network.params, images).shape[-1]
