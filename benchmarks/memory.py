"""The memory that the presets need on a device at full size: weights, and steps as XLA plans them.

    python -m benchmarks.memory                                        # weights, from the networks' shapes
    python -m benchmarks.memory --plan finetune                        # what a step takes besides
    python -m benchmarks.memory --plan optimize --prompts 1 --images 4

No step is run. `--images` is the number of images that a device computes at a time. A plan holds for the
backend of this machine. Compiling `optimize` takes minutes.
"""

import argparse
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from gap_jax.diffusion.align import Sampling, controlnet_depth, generate
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.diffusion.schedule import Schedule
from gap_jax.experiments.depth.settings import PRESETS
from gap_jax.experiments.depth.task import depth_task
from gap_jax.models.bit import BitConfig
from gap_jax.models.clip import Clip, CLIPModel, CLIPTextModel, CLIPVisionModel
from gap_jax.models.controlnet import ControlNet
from gap_jax.models.depth_unet import DepthUNet
from gap_jax.models.dpt import DPT
from gap_jax.models.layers import Layer
from gap_jax.models.network import Network
from gap_jax.models.tokenizer import train_tokenizer
from gap_jax.models.unet import UNet2DCondition
from gap_jax.models.vae import AutoencoderKL
from gap_jax.stages.amsgrad import amsgrad
from gap_jax.stages.guidance import FeatureStatistics, cosine
from gap_jax.stages.objective import Term, adversarial
from gap_jax.stages.prompt_optimizer import EarlyStop, adamw, prompt_optimizer
from gap_jax.tasks.depth import NEGATIVE_PROMPT

SIDE = 384  # of generated images
SCHEDULE = Schedule(1000, 0.00085, 0.012, "scaled_linear", steps_offset=1, set_alpha_to_one=False)
TOKENIZER = train_tokenizer(NEGATIVE_PROMPT.replace(",", " , ").split(), 77)[0]
DEPTH_MODELS = {
    256: DepthUNet(),
    384: DPT(neck_hidden_sizes=(256, 512, 768, 768), backbone_config=BitConfig()),
}


class Networks:
    """Stable Diffusion 1.5 with ControlNet, CLIP ViT-L/14 and the depth model, as shapes."""

    def __init__(self, preset: str, dtype: str):
        self.settings, self.world = PRESETS[preset]
        dtypes = dict.fromkeys(("dtype", "param_dtype"), jnp.dtype(dtype))
        text = CLIPTextModel(768, 3072, 12, 12, **dtypes)
        vision = CLIPVisionModel(1024, 4096, 24, 16, patch_size=14, **dtypes)
        self.pipe = Pipeline(
            text,
            AutoencoderKL(block_out_channels=(128, 256, 512, 512), layers_per_block=2, **dtypes),
            UNet2DCondition(cross_attention_dim=768, **dtypes),
            ControlNet(cross_attention_dim=768, **dtypes),
            SCHEDULE,
            TOKENIZER,
        )
        self.clip = Clip(CLIPModel(text, vision, 768, **dtypes), TOKENIZER, (0.5,) * 3, (0.5,) * 3)
        self.model = DEPTH_MODELS[self.world.size]
        parts = ("text_encoder", "vae", "unet", "controlnet")
        self.params = {part: shapes(getattr(self.pipe, part)) for part in parts}
        self.clip_params = shapes(self.clip.model)
        self.model_params = shapes(self.model)
        self.task = depth_task(self.world.loss, NEGATIVE_PROMPT)

    def predict(self, params: Any, images: jax.Array) -> jax.Array:
        """Predict depth as the experiment's world from files does."""
        size = (len(images), self.world.size, self.world.size, 3)
        return self.model.apply({"params": params}, jax.image.resize(images, size, "bilinear"))

    def optimize(self, prompts: int, images: int) -> tuple[Callable, tuple]:
        """Return an optimisation step, with the losses of the model and of CLIP, and its arguments."""
        config = self.settings.optimizing

        def optimizer(params, clip_params, model_params):
            def distance(params, sample):
                return cosine(
                    self.clip.image_features(params, sample.images), FeatureStatistics(jnp.ones(1024), None)
                )

            return prompt_optimizer(
                self.pipe,
                params,
                Network(self.predict, model_params),
                [adversarial(self.task.adversarial), Term("guidance", distance, clip_params)],
                controlnet_depth(),
                adamw(config.learning_rate, weight_decay=config.weight_decay),
                placeholders=config.placeholders,
                negative_prompt=self.task.negative_prompt,
                sampling=Sampling(config.denoising_steps, self.settings.sampling.guidance_scale),
                accumulation=config.batch // config.micro_batch,
                early_stop=EarlyStop(config.window, config.threshold),
            )

        def step(weights, states, batch):
            made = optimizer(*weights)
            return jax.vmap(made.step, (None, 0, None))(made.weights, states, batch)

        weights = (self.params, self.clip_params, self.model_params)
        starts = jax.ShapeDtypeStruct((prompts, config.placeholders, 768), jnp.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), prompts))
        states = jax.eval_shape(lambda w, k, s: jax.vmap(optimizer(*w).init)(k, s), weights, keys, starts)
        return step, (weights, states, batch(images * config.batch // config.micro_batch))

    def generate(self, prompts: int, images: int) -> tuple[Callable, tuple]:
        """Return a step that generates images and takes the model's loss on them, and its arguments."""
        config = self.settings
        sampling = Sampling(config.generating.denoising_steps, config.sampling.guidance_scale)

        def generation_step(params, model_params, context, uncond, batch, keys):
            images = generate(self.pipe, params, context, uncond, batch, keys, controlnet_depth(), sampling)
            return images, self.task.loss(self.predict(model_params, images), batch)

        context = jax.ShapeDtypeStruct((1, 77, 768), jnp.float32)
        keys = jax.eval_shape(lambda: jax.random.split(jax.random.key(0), images))
        return generation_step, (self.params, self.model_params, context, context, batch(images), keys)

    def finetune(self, prompts: int, images: int) -> tuple[Callable, tuple]:
        """Return a step of fine-tuning the depth model, and its arguments."""
        adam = amsgrad(self.settings.finetuning.learning_rate)

        def step(params, state, batch):
            def loss(params):
                return self.task.loss(self.predict(params, batch["image"]), batch).mean()

            updates, state = adam.update(jax.grad(loss)(params), state)
            return optax.apply_updates(params, updates), state

        state = jax.eval_shape(adam.init, self.model_params)
        return step, (self.model_params, state, batch(images))


def shapes(network: Layer) -> Any:
    """Return the shapes of a network's parameters."""
    return jax.eval_shape(network.init, jax.random.key(0), *network.example_inputs())["params"]


def batch(images: int) -> dict[str, jax.ShapeDtypeStruct]:
    """Return the shapes of images with depth."""
    kinds = {"image": (3, jnp.float32), "depth": (1, jnp.float32), "mask": (1, jnp.bool_)}
    return {
        name: jax.ShapeDtypeStruct((images, SIDE, SIDE, channels), dtype)
        for name, (channels, dtype) in kinds.items()
    }


def size(tree: Any) -> str:
    """Return the number of parameters and their size, as text."""
    leaves = jax.tree.leaves(tree)
    count, total = sum(leaf.size for leaf in leaves), sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)
    return f"{count / 1e6:9.1f} M {total / 1e9:7.2f} GB"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--preset", choices=[name for name in PRESETS if name != "small"], default="taskonomy-unet"
    )
    parser.add_argument("--dtype", default="float32", help="precision of Stable Diffusion and CLIP")
    parser.add_argument("--plan", nargs="*", choices=("optimize", "generate", "finetune"), default=[])
    parser.add_argument("--prompts", type=int, default=1, help="number of prompts that are optimised at once")
    parser.add_argument("--images", type=int, default=4, help="images that a device computes at a time")
    args = parser.parse_args()
    networks = Networks(args.preset, args.dtype)
    named = {**networks.params, "clip": networks.clip_params, "depth model": networks.model_params}
    for name, tree in {**named, "together": named}.items():
        print(f"{name:14}{size(tree)}")
    for name in args.plan:
        step, arguments = getattr(networks, name)(args.prompts, args.images)
        start = time.perf_counter()
        plan = jax.jit(step).lower(*arguments).compile().memory_analysis()
        given, temporary = plan.argument_size_in_bytes / 1e9, plan.temp_size_in_bytes / 1e9
        print(
            f"{name}, prompts: {args.prompts}, images: {args.images}, {jax.devices()[0].device_kind}: "
            f"arguments {given:.2f} GB, peak temporary {temporary:.2f} GB "
            f"(compiled in {time.perf_counter() - start:.0f} s)",
            flush=True,
        )


if __name__ == "__main__":
    main()
