"""The parts of fine-tuning a classifier: its last layer, the optimiser, and a new head.

The running statistics of a `ResNet` are among its parameters, but they have no gradient of their own and must
not be decayed: `masked_optimizer` leaves them alone. If batch norm is in training mode, they have to move.
`statistics_loss` makes them move, in any loop that takes gradients and on any number of devices:

    def loss(params, frozen, batch, keys):
        logits, updated = model.apply({"params": params}, batch["image"], train=True, mutable="params")
        error = cross_entropy(logits, batch["label"]).mean()
        return error + statistics_loss(params, updated["params"]), {}
"""

import jax
import jax.numpy as jnp
import optax

from gap_jax.models.network import Mask
from gap_jax.models.parameters import all_parameters, batch_norm_statistics, mask_of
from gap_jax.models.resnet import ResNet
from gap_jax.models.vit import ViT


def last_layer(params: dict) -> dict:
    """Return a mask that is True for the kernel and the bias of the head."""
    return mask_of(params, lambda path: path[0] in (ResNet.head, ViT.head))


def masked_optimizer(
    optimizer: optax.GradientTransformation, trainable: Mask = all_parameters
) -> optax.GradientTransformation:
    """Return `optimizer` for the parameters of the mask `trainable`; all others stay as they are.

    Batch norm's running statistics and a torch module's buffers follow the gradient of `statistics_loss`,
    whatever the mask.
    """

    def labels(params):
        return jax.tree.map(
            lambda trained, statistic: "statistics" if statistic else "trained" if trained else "frozen",
            trainable(params),
            batch_norm_statistics(params),
        )

    kinds = {"trained": optimizer, "statistics": optax.sgd(1.0), "frozen": optax.set_to_zero()}
    return optax.partition(kinds, labels)


def with_new_head(
    module: ResNet | ViT, params: dict, num_classes: int, key: jax.Array
) -> tuple[ResNet | ViT, dict]:
    """Return the classifier and its parameters with a new, random head for `num_classes`.

    The head's kernel and bias are uniform in ±1/√features, as in torch's `Linear`; all other parameters are
    kept. Raises ValueError for fewer than 2 classes.
    """
    if num_classes < 2:
        raise ValueError(f"num_classes must be at least 2, found {num_classes}")
    old = params[module.head]
    num_features = old["kernel"].shape[0]
    bound = num_features**-0.5
    shapes = {"kernel": (num_features, num_classes), "bias": (num_classes,)}
    head = {
        name: jax.random.uniform(part_key, shape, jnp.float32, -bound, bound).astype(old[name].dtype)
        for part_key, (name, shape) in zip(jax.random.split(key), shapes.items(), strict=True)
    }
    return module.clone(num_labels=num_classes, label_names=None), {**params, module.head: head}
