"""Compares a torch module on eight devices with torch: predictions, gradients, batch norm's statistics.

The argument is the engine.
"""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import torch

import gap_jax
from gap_jax import parallel
from tests.torch_references.folders import nchw
from tests.torch_references.modules import build

ROWS = 16
mesh = parallel.make_mesh()
assert len(mesh.devices.flat) == 8
module, side = build("mobile_net")
network = gap_jax.from_torch(module, engine=sys.argv[1])
images = np.random.default_rng(0).random((ROWS, side, side, 3), np.float32)
weights = np.random.default_rng(1).normal(size=(ROWS, 5)).astype(np.float32)


@jax.jit
def compute(params, batch, keys):
    def training(params, images):
        return network.training(params, images, keys)

    (logits, _), pullback = jax.vjp(training, params, batch["images"])
    return network.predict(params, batch["images"]), logits, pullback((batch["weights"], jnp.ones(())))


params = parallel.replicate(mesh, network.params)
batch = parallel.feed(mesh, ROWS, {"images": images, "weights": weights})
assert len(batch["images"].sharding.device_set) == 8
predicted, logits, (to_params, to_images) = compute(params, batch, jax.random.split(jax.random.key(0), ROWS))


def assert_close(ours, theirs, name):
    theirs = theirs.detach().numpy()
    np.testing.assert_allclose(
        np.asarray(ours), theirs, rtol=0, atol=2e-5 * np.abs(theirs).max(), err_msg=name
    )


assert_close(predicted, module.eval()(nchw(images)), "prediction")
pixels = nchw(images).requires_grad_()
expected = module.train()(pixels)
(expected * torch.from_numpy(weights)).sum().backward()
assert_close(logits, expected, "training")
assert_close(to_images, pixels.grad.permute(0, 2, 3, 1), "gradient to images")
largest = max(float(parameter.grad.abs().max()) for parameter in module.parameters())
for name, parameter in module.named_parameters():
    found, wanted = np.asarray(to_params["parameters"][name]), parameter.grad.numpy()
    np.testing.assert_allclose(found, wanted, rtol=0, atol=2e-5 * largest, err_msg=name)
for name, buffer in module.named_buffers():
    if name not in network.params["buffers"]:
        continue
    moved = network.params["buffers"][name] - np.asarray(to_params["buffers"][name])
    np.testing.assert_allclose(moved, buffer.numpy(), rtol=1e-4, atol=1e-5, err_msg=name)
