"""The two ways to run a torch module in a JAX program.

- torchax replaces each torch operation by JAX ones, so that the module becomes part of the compiled program
  and runs on its devices.
- A callback calls torch on the host. It runs any module, but slowly, and in one process only.

Both are functions `(tensors, images, key, train) -> (prediction, tensors after the call)`. `tensors` holds
arrays by their names in torch; a training call changes some of them, such as batch norm's statistics.
"""

import contextlib
import functools
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from gap_jax.errors import how_to_install
from gap_jax.models.torch_modules.host import call_on_host

if TYPE_CHECKING:
    import torch

Tensors = Mapping[str, jax.Array]
Output = Callable[[Any], "torch.Tensor"]  # from what the module returns to the tensor that is its prediction
Engine = Callable[[Tensors, jax.Array, jax.Array, bool], tuple[jax.Array, dict[str, jax.Array]]]
_MODULES_LOCK = threading.RLock()  # a call puts other tensors into the module for a moment


def torchax_engine(module: "torch.nn.Module", output: Output) -> Engine:
    """Return the engine that makes the module part of the JAX program; raise ImportError without torchax."""
    import torch

    environment = _environment()

    def call(tensors: Tensors, images: jax.Array, key: jax.Array, train: bool):
        inside = {name: environment.j2t_iso(array) for name, array in tensors.items()}
        with (
            _MODULES_LOCK,
            warnings.catch_warnings(),
            _mode(module, train),
            _holding(module, inside, lambda tensor: environment.j2t_iso(jnp.asarray(numpy_of(tensor)))),
            environment.override_property(prng=key),
            environment,
            torch.device("jax"),
        ):
            warnings.filterwarnings("ignore", "Explicitly requested dtype")  # JAX has int32 for int64
            prediction: Any = output(module(environment.j2t_iso(images)))
        return prediction.jax(), {name: tensor.jax() for name, tensor in inside.items()}

    return call


def callback_engine(module: "torch.nn.Module", output: Output) -> Engine:
    """Return the engine that calls torch on the host, with gradients to images and parameters."""
    import torch

    def run(tensors: Mapping[str, Any], images: Any, seed: Any, train: bool, gradients: bool):
        """Return torch's prediction, all tensors after it, and the parameters and images that it is of."""
        given = {name: tensor_of(array) for name, array in tensors.items()}
        leaves = {name: given[name] for name, _ in module.named_parameters()}
        pixels = tensor_of(images)
        for tensor in (*leaves.values(), pixels):
            tensor.requires_grad_(gradients)
        changed = {name: tensor.clone() for name, tensor in given.items()}
        with (
            _MODULES_LOCK,
            _mode(module, train),
            _holding(module, changed),
            torch.random.fork_rng(devices=[]),
            torch.set_grad_enabled(gradients),
        ):
            torch.manual_seed(int(seed))
            prediction = output(module(pixels))
        return prediction, changed, leaves, pixels

    def forward_on_host(tensors, images, seed, train: bool):
        prediction, changed, _, _ = run(tensors, images, seed, train, gradients=False)
        return numpy_of(prediction), {name: numpy_of(tensor) for name, tensor in changed.items()}

    def backward_on_host(tensors, images, seed, cotangent, train: bool):
        prediction, _, leaves, pixels = run(tensors, images, seed, train, gradients=True)
        given = [*leaves.values(), pixels]
        found = torch.autograd.grad(prediction, given, tensor_of(cotangent), allow_unused=True)
        arrays = [
            numpy_of(torch.zeros_like(tensor) if gradient is None else gradient)
            for tensor, gradient in zip(given, found, strict=True)
        ]
        return dict(zip(leaves, arrays, strict=False)), arrays[-1]

    @functools.cache
    def shape_of_prediction(shape: tuple[int, ...], dtype: Any, train: bool) -> jax.ShapeDtypeStruct:
        own = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        arrays = {name: numpy_of(tensor) for name, tensor in own.items()}
        prediction, _ = forward_on_host(arrays, np.zeros(shape, dtype), 0, train)
        return jax.ShapeDtypeStruct(prediction.shape, prediction.dtype)

    @functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
    def differentiable(tensors, images, seed, train):
        results = (shape_of_prediction(images.shape, images.dtype, train), _shapes(dict(tensors)))
        host = functools.partial(forward_on_host, train=train)
        return call_on_host(host, results, tensors, images, seed)

    def forward(tensors, images, seed, train):
        return differentiable(tensors, images, seed, train), (tensors, images, seed)

    def backward(train, saved, cotangents):
        tensors, images, seed = saved
        learning = {name: tensors[name] for name, _ in module.named_parameters()}
        shapes = _shapes((learning, images))
        host = functools.partial(backward_on_host, train=train)
        gradients, pixels = call_on_host(host, shapes, tensors, images, seed, cotangents[0])
        return {name: gradients.get(name) for name in tensors}, pixels, None

    differentiable.defvjp(forward, backward)

    def call(tensors: Tensors, images: jax.Array, key: jax.Array, train: bool):
        prediction, changed = differentiable(dict(tensors), images, jax.random.bits(key), train)
        return prediction, jax.lax.stop_gradient(changed)

    return call


def _shapes(tree: Any) -> Any:
    return jax.tree.map(lambda array: jax.ShapeDtypeStruct(array.shape, array.dtype), tree)


@functools.cache
def _environment() -> Any:
    """Return torchax's environment, in which batch norm moves its running statistics.

    For `with torch.device(…)`, torch lists the functions that make tensors when it first needs the list. That
    may be while transformers loads a model, and puts another function in the place of `torch.linspace`.
    Therefore torch is made to list them again.
    """
    import torch
    from torch.utils._device import _device_constructors

    try:
        import torchax.tensor
    except ImportError as error:
        raise ImportError(
            f"running a torch module in JAX needs torchax ({error}): {how_to_install('torch-models')}"
        ) from error
    import torchax

    _device_constructors.cache_clear()
    _device_constructors()
    environment = torchax.tensor.Environment()
    environment.override_op_definition(torch.nn.functional.batch_norm, _batch_norm)
    return environment


def _batch_norm(
    x, running_mean, running_var, weight=None, bias=None, training=False, momentum=0.1, eps=1e-5
) -> Any:
    """Return torch's batch norm (arXiv 1502.03167) of `[B,C,…]`; in training, move the running statistics.

    torchax 0.0.14 leaves the running statistics as they are. As in torch, a batch is normalised by its biased
    variance, and the running variance follows the unbiased one.
    """
    shape = [1, -1] + [1] * (x.ndim - 2)
    if training:
        axes = [0, *range(2, x.ndim)]
        mean, var = x.mean(axes), x.var(axes, unbiased=False)
        if running_mean is not None:
            count = x.numel() // x.shape[1]
            running_mean.mul_(1 - momentum).add_(mean.detach() * momentum)
            running_var.mul_(1 - momentum).add_(var.detach() * (momentum * count / max(count - 1, 1)))
    else:
        mean, var = running_mean, running_var
    normal = (x - mean.reshape(shape)) * (var.reshape(shape) + eps).rsqrt()
    normal = normal if weight is None else normal * weight.reshape(shape)
    return normal if bias is None else normal + bias.reshape(shape)


@contextlib.contextmanager
def _mode(module: "torch.nn.Module", train: bool) -> Iterator[None]:
    """Put the module in training or evaluation mode, and its parts back in the mode they had."""
    before = [(part, part.training) for part in module.modules()]
    module.train(train)
    try:
        yield
    finally:
        for part, mode in before:
            part.training = mode


@contextlib.contextmanager
def _holding(
    module: "torch.nn.Module",
    tensors: Mapping[str, "torch.Tensor"],
    convert: Callable[["torch.Tensor"], "torch.Tensor"] = lambda tensor: tensor,
) -> Iterator[None]:
    """Put tensors in the place of parameters and buffers, by name, and convert all other tensors.

    The other ones are attributes that are neither parameters nor buffers. Unlike torch's `functional_call`,
    it gives back what a module that is shared under several names had.
    """
    import torch

    names = {id(tensor): name for name, tensor in (*module.named_parameters(), *module.named_buffers())}
    places: list[tuple[dict[str, Any], str, Any]] = []
    for part in module.modules():
        held: tuple[dict[str, Any], ...] = (part._parameters, part._buffers, vars(part))
        places += [(by_key, key, value) for by_key in held for key, value in by_key.items()]
    places = [place for place in places if isinstance(place[2], torch.Tensor)]
    try:
        for by_key, key, value in places:
            by_key[key] = tensors[names[id(value)]] if id(value) in names else convert(value)
        yield
    finally:
        for by_key, key, value in places:
            by_key[key] = value


def tensor_of(array: Any) -> "torch.Tensor":
    """Return a torch tensor with a copy of an array."""
    import torch

    array = np.asarray(array)
    if array.dtype == jnp.bfloat16:
        return torch.from_numpy(array.astype(np.float32)).to(torch.bfloat16)
    return torch.from_numpy(np.array(array))


def numpy_of(tensor: "torch.Tensor") -> np.ndarray:
    """Return a tensor as an array of JAX's dtype: without 64 bits, and bfloat16 as JAX has it."""
    import torch

    tensor = tensor.detach().cpu()
    if tensor.dtype == torch.bfloat16:
        return tensor.float().numpy().astype(jnp.bfloat16)
    array = tensor.numpy()
    return array.astype(jax.dtypes.canonicalize_dtype(array.dtype))
