"""Torch modules as networks: prediction, gradients and fine-tuning in JAX, and back to a state dict."""

import dataclasses
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Literal

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.models.network import Mask, Network
from gap_jax.models.parameters import BUFFERS, freeze, statistics_loss
from gap_jax.models.torch_modules.engines import (
    Engine,
    Output,
    callback_engine,
    numpy_of,
    tensor_of,
    torchax_engine,
)
from gap_jax.models.torch_modules.preprocessing import Preprocessing

if TYPE_CHECKING:
    import torch

PARAMETERS = "parameters"  # the key of a torch module's parameters, beside BUFFERS
PREDICTIONS = ("logits", "predicted_depth", "out")  # fields of transformers' and torchvision's outputs
COUNTER = "num_batches_tracked"  # batch norm's only integer buffer, which training changes
PROBED_SIZE = (224, 224)  # in pixels, for a module that takes images of any size


@dataclasses.dataclass(frozen=True, eq=False)
class TorchModule:
    """A torch module with `apply`, as a Flax network has it.

    Its parameters are a tree of two dictionaries with torch's names: `parameters`, and `buffers`, such as
    batch norm's running statistics. Make one with `wrap` or `load_torch`.
    """

    module: "torch.nn.Module"
    preprocessing: Preprocessing
    engine: Engine
    constants: Mapping[str, np.ndarray]  # integer buffers, such as tables of positions
    dtype: Any

    @property
    def image_size(self) -> int | None:
        """The side of the images that the module was made for, in pixels; None: any."""
        return None if self.preprocessing.size is None else self.preprocessing.size[0]

    def apply(self, variables: Mapping[str, Any], images: jax.Array) -> jax.Array:
        """Return the module's prediction in evaluation mode, float32; a map has its channels last.

        `variables["params"]` are the parameters; `images` float `[B,H,W,3]` in [0,1], at the module's size.
        """
        return self._call(variables["params"], images, jax.random.key(0), False)[0]

    def apply_in_training(
        self, params: Mapping[str, Any], images: jax.Array, key: jax.Array
    ) -> tuple[jax.Array, dict[str, Any]]:
        """Return the prediction in training mode, and the parameters with the buffers as they are after it.

        `key` is what dropout draws with.
        """
        prediction, changed = self._call(params, images, key, True)
        return prediction, {**params, BUFFERS: {name: changed[name] for name in params[BUFFERS]}}

    def trainable(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return a mask that is True for the parameters that require a gradient in torch."""
        required = {name: tensor.requires_grad for name, tensor in self.module.named_parameters()}
        return {
            PARAMETERS: {name: required[name] for name in params[PARAMETERS]},
            BUFFERS: dict.fromkeys(params[BUFFERS], False),
        }

    def last_layer(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """Return a mask that is True for the last layer: the last that torch lists with parameters."""
        *_, (last, _) = self.module.named_parameters()
        layer = last.rpartition(".")[0]
        return {
            PARAMETERS: {name: name.rpartition(".")[0] == layer for name in params[PARAMETERS]},
            BUFFERS: dict.fromkeys(params[BUFFERS], False),
        }

    def _call(self, params, images, key, train: bool):
        tensors = {name: jnp.asarray(array) for name, array in self.constants.items()}
        tensors |= {**params[PARAMETERS], **params[BUFFERS]}
        pixels = self.preprocessing.normalise(images).astype(self.dtype)
        prediction, changed = self.engine(tensors, pixels, key, train)
        return self.preprocessing.to_channels_last(prediction).astype(jnp.float32), changed


def wrap(
    module: "torch.nn.Module",
    preprocessing: Preprocessing | None = None,
    output: Output | None = None,
    engine: Literal["torchax", "callback"] | None = None,
) -> tuple[TorchModule, dict[str, Any]]:
    """Return a torch module with Flax's interface, and its parameters. The arguments are `from_torch`'s."""
    import torch

    preprocessing = preprocessing or Preprocessing()
    output = output or first_prediction
    buffers = {name: numpy_of(tensor) for name, tensor in module.named_buffers()}
    moved = {
        name: array.astype(np.float32) if name.endswith(COUNTER) else array
        for name, array in buffers.items()
        if name.endswith(COUNTER) or jnp.issubdtype(array.dtype, jnp.floating)
    }
    params = {
        PARAMETERS: {name: jnp.asarray(numpy_of(tensor)) for name, tensor in module.named_parameters()},
        BUFFERS: {name: jnp.asarray(array) for name, array in moved.items()},
    }
    floats = (tensor.dtype for tensor in module.parameters() if tensor.is_floating_point())
    dtype = numpy_of(torch.zeros((), dtype=next(floats, torch.float32))).dtype
    constants = {name: array for name, array in buffers.items() if name not in moved}

    def with_engine(engine: Callable[..., Engine]) -> TorchModule:
        return TorchModule(module, preprocessing, engine(module, output), constants, dtype)

    if engine == "callback":
        return with_engine(callback_engine), params
    wrapped = with_engine(torchax_engine)
    try:
        _probe(wrapped, params)
    except Exception as error:
        if engine == "torchax" or isinstance(error, ImportError):
            raise
        _check_in_torch(module, preprocessing, output)
        reason = f"{type(error).__name__}: {str(error).partition(chr(10))[0][:150]}"
        warnings.warn(
            f"torchax cannot run {type(module).__name__} ({reason}): torch "
            "is called on the host instead, which is slow and needs a single process",
            stacklevel=3,
        )
        return with_engine(callback_engine), params
    return wrapped, params


def from_torch(
    module: "torch.nn.Module",
    preprocessing: Preprocessing | None = None,
    *,
    output: Output | None = None,
    engine: Literal["torchax", "callback"] | None = None,
) -> Network:
    """Return a torch module as a network of the closed loop.

    - `module`: takes images `[B,C,H,W]` as its only argument. Predictions, and gradients to images and
      parameters, are torch's up to float32 rounding. Its own tensors are never changed.
    - `preprocessing`: how images, `[B,H,W,3]` in [0,1] and of any size, become the module's. None: they keep
      their size and values, and only their layout changes.
    - `output`: takes what the module returns and returns the prediction as a tensor. None: the tensor
      itself, or `logits`, `predicted_depth` or `out` of an output of transformers or torchvision.
    - `engine`: `torchax` makes the module part of the JAX program. `callback` calls torch on the host, which
      works for any module, but slowly and in a single process. None: torchax if it can run the module, else
      callback, with a warning.

    A prediction `[B,C,H,W]` becomes `[B,H,W,C]`. Fine-tuning uses torch's training mode, with dropout and
    batch norm's running statistics; it changes the parameters that require a gradient. `to_torch` turns
    fine-tuned parameters into a state dict.

    Raises ImportError without torchax, TypeError if there is no prediction in what the module returns, and
    torch's own error, if torch cannot run the module on such images either.
    """
    return as_network(*wrap(module, preprocessing, output, engine))


def as_network(
    wrapped: TorchModule,
    params: dict[str, Any],
    trainable: Mask | None = None,
    training: bool = True,
    resize: Callable[[jax.Array], jax.Array] | None = None,
) -> Network:
    """Return a wrapped torch module as a network.

    - `trainable`: a mask of the parameters that fine-tuning may change; None: those that require a gradient.
    - `training`: False for fine-tuning in evaluation mode, which changes no buffer and drops nothing out.
    - `resize`: brings images to the module's size; None: its preprocessing does.
    """
    mask = trainable or wrapped.trainable
    resize = resize or wrapped.preprocessing.resize

    def predict(params, images):
        return wrapped.apply({"params": params}, resize(images))

    def train(params, images, keys):
        prediction, updated = wrapped.apply_in_training(freeze(params, mask), resize(images), keys[0])
        return prediction, statistics_loss(params, updated)

    return Network(predict, params, mask, train if training else None)


def to_torch(module: "torch.nn.Module", params: Mapping[str, Any]) -> dict[str, "torch.Tensor"]:
    """Return parameters as a state dict of the module: `module.load_state_dict(to_torch(module, params))`.

    - `module`: the module that `from_torch` was given, which stays as it is.
    - `params`: the network's parameters, such as after fine-tuning.

    Raises ValueError for parameters of another module.
    """
    arrays = {**params[PARAMETERS], **params[BUFFERS]}
    own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
    for name, array in arrays.items():
        if name not in own or own[name].shape != array.shape:
            found = list(own[name].shape) if name in own else "none"
            raise ValueError(
                f"params has {name} of shape {list(array.shape)}, but {type(module).__name__} has {found}: "
                "give the module that the network was made from"
            )
    names = {id(tensor): name for name, tensor in own.items()}  # shared tensors have several names
    state = {}
    for key, value in module.state_dict(keep_vars=True).items():
        array = arrays.get(names.get(id(value), ""))
        state[key] = value if array is None else tensor_of(array).to(value.dtype)
    return state


def first_prediction(returned: Any) -> "torch.Tensor":
    """Return the prediction in what a module returned; raise TypeError if it is unclear which it is."""
    import torch

    if isinstance(returned, torch.Tensor):
        return returned
    for name in PREDICTIONS:
        value = returned.get(name) if isinstance(returned, Mapping) else getattr(returned, name, None)
        if isinstance(value, torch.Tensor):
            return value
    raise TypeError(
        f"the module must return a tensor, or an output with {', '.join(PREDICTIONS)}; found "
        f"{type(returned).__name__}: give `output`, a function that returns the tensor"
    )


def _probe(wrapped: TorchModule, params: dict[str, Any]) -> None:
    """Raise an error if torchax cannot run the module in both modes or differentiate it; compute nothing."""
    import torch

    for name, part in wrapped.module.named_modules():
        if isinstance(part, torch.nn.modules.instancenorm._InstanceNorm) and part.track_running_stats:
            raise NotImplementedError(f"{name} is an instance norm with running statistics")
    images = jax.ShapeDtypeStruct((2, *(wrapped.preprocessing.size or PROBED_SIZE), 3), jnp.float32)

    def gradient(params, images, key):
        trained, _ = wrapped.apply_in_training(params, images, key)
        return jax.grad(lambda images: wrapped.apply({"params": params}, images).sum())(images), trained

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        jax.eval_shape(gradient, params, images, jax.random.key(0))


def _check_in_torch(module: "torch.nn.Module", preprocessing: Preprocessing, output: Output) -> None:
    """Raise torch's own error if the module does not run in torch either."""
    import torch

    height, width = preprocessing.size or PROBED_SIZE
    shape = (2, 3, height, width) if preprocessing.layout == "channels_first" else (2, height, width, 3)
    try:
        with torch.no_grad():
            output(module(torch.zeros(shape)))
    except Exception as error:
        error.add_note(
            f"torch cannot run {type(module).__name__} on images {list(shape)}: give the size that it needs "
            "in Preprocessing(size=…)"
        )
        raise
