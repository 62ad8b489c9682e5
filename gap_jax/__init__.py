"""gap_jax: controlled training data generation with diffusion models, in JAX and Flax.

`load_pipeline` and `load_clip` read Stable Diffusion, ControlNet and CLIP from diffusers' and transformers'
folders or from the hub; `save_pipeline` and `save_clip` write them; `load_depth`, `load_classifier` and their
`save_…` do so for depth models and classifiers; `"small"` and `"wildlife"` name models of small worlds that
come with gap_jax. `prompts` keeps learned placeholders.
"""

from gap_jax import prompts
from gap_jax.diffusion.pipeline import Pipeline
from gap_jax.diffusion.schedule import ddim, dpm_solver
from gap_jax.models.clip import Clip
from gap_jax.weights.classifier import load_classifier, save_classifier
from gap_jax.weights.depth import load_depth, save_depth
from gap_jax.weights.pipeline import add_controlnet, load_clip, load_pipeline, save_clip, save_pipeline

__version__ = "0.1.0"

__all__ = [
    "Clip",
    "Pipeline",
    "add_controlnet",
    "ddim",
    "dpm_solver",
    "load_classifier",
    "load_clip",
    "load_depth",
    "load_pipeline",
    "prompts",
    "save_classifier",
    "save_clip",
    "save_depth",
    "save_pipeline",
]
