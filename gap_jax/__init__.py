"""Controlled training data generation with diffusion models, in JAX and Flax.

The names below are the public API; everything else may change between versions. They are imported when they
are first used, so that `import gap_jax` is fast.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    # Stable Diffusion
    "Pipeline": "gap_jax.diffusion.pipeline",
    "load_pipeline": "gap_jax.weights.pipeline",
    "save_pipeline": "gap_jax.weights.pipeline",
    "add_controlnet": "gap_jax.weights.pipeline",
    "ddim": "gap_jax.diffusion.schedule",
    "dpm_solver": "gap_jax.diffusion.schedule",
    "euler": "gap_jax.diffusion.schedule",
    "lcm": "gap_jax.diffusion.schedule",
    # CLIP
    "Clip": "gap_jax.models.clip",
    "load_clip": "gap_jax.weights.pipeline",
    "save_clip": "gap_jax.weights.pipeline",
    "clean_caption": "gap_jax.models.tokenizer",
    # vision models
    "Network": "gap_jax.models.network",
    "load_depth": "gap_jax.weights.depth",
    "save_depth": "gap_jax.weights.depth",
    "load_segmentation": "gap_jax.weights.torch_models.segmentation",
    "save_segmentation": "gap_jax.weights.torch_models.segmentation",
    "load_classifier": "gap_jax.weights.classifier",
    "save_classifier": "gap_jax.weights.classifier",
    "load_torch": "gap_jax.weights.torch_models.loading",
    "from_torch": "gap_jax.models.torch_modules.module",
    "to_torch": "gap_jax.models.torch_modules.module",
    "Preprocessing": "gap_jax.models.torch_modules.preprocessing",
    # alignments: how images keep their labels
    "Alignment": "gap_jax.diffusion.align",
    "Economy": "gap_jax.diffusion.sampler",
    "Sampling": "gap_jax.diffusion.align",
    "Start": "gap_jax.diffusion.align",
    "controlnet": "gap_jax.diffusion.align",
    "controlnet_depth": "gap_jax.diffusion.align",
    "inpaint": "gap_jax.diffusion.align",
    "latent_mask": "gap_jax.diffusion.align",
    "first_noise": "gap_jax.diffusion.align",
    "sdedit_start": "gap_jax.diffusion.align",
    "fold_keys": "gap_jax.diffusion.align",
    "depth_condition": "gap_jax.diffusion.conditions",
    "class_condition": "gap_jax.diffusion.conditions",
    "normal_condition": "gap_jax.diffusion.conditions",
    "canny_condition": "gap_jax.diffusion.conditions",
    # objectives: what prompts are optimised for
    "Term": "gap_jax.stages.objective",
    "SetTerm": "gap_jax.stages.objective",
    "adversarial": "gap_jax.stages.objective",
    "image_guidance": "gap_jax.stages.guidance",
    "text_guidance": "gap_jax.stages.guidance",
    "FeatureStatistics": "gap_jax.stages.guidance",
    "load_target_features": "gap_jax.stages.target_features",
    "textual_inversion": "gap_jax.stages.guidance",
    "cosine": "gap_jax.stages.guidance",
    "cosine_over_positions": "gap_jax.stages.guidance",
    "l2": "gap_jax.stages.guidance",
    "standardised_l2": "gap_jax.stages.guidance",
    "set_guidance": "gap_jax.stages.set_terms",
    "diversity": "gap_jax.stages.set_terms",
    # stages
    "EarlyStop": "gap_jax.stages.prompt_optimizer",
    "adamw": "gap_jax.stages.optimizers",
    "prompt_optimizer": "gap_jax.stages.prompt_optimizer",
    "optimize": "gap_jax.stages.optimize",
    "load_trajectory": "gap_jax.stages.optimize",
    "Filter": "gap_jax.stages.generate",
    "Band": "gap_jax.stages.band",
    "Plan": "gap_jax.stages.generate",
    "plan": "gap_jax.stages.generate",
    "generate": "gap_jax.stages.generate",
    "Mixture": "gap_jax.stages.finetune",
    "finetune": "gap_jax.stages.finetune",
    "SetKey": "gap_jax.stages.evaluate",
    "evaluate": "gap_jax.stages.evaluate",
    # the closed loop
    "Experiment": "gap_jax.closed_loop.command",
    "Preset": "gap_jax.closed_loop.command",
    "main": "gap_jax.closed_loop.command",
    "Settings": "gap_jax.closed_loop.settings",
    "GeneratorFiles": "gap_jax.closed_loop.settings",
    "SamplingSettings": "gap_jax.closed_loop.settings",
    "Optimizing": "gap_jax.closed_loop.settings",
    "Generating": "gap_jax.closed_loop.settings",
    "Finetuning": "gap_jax.closed_loop.settings",
    "Evaluating": "gap_jax.closed_loop.settings",
    "World": "gap_jax.closed_loop.world",
    "Generator": "gap_jax.closed_loop.world",
    "Models": "gap_jax.closed_loop.world",
    "DataSets": "gap_jax.closed_loop.world",
    "TargetDomain": "gap_jax.closed_loop.world",
    "TrainingData": "gap_jax.closed_loop.world",
    "load_generator": "gap_jax.closed_loop.world",
    "FixedPrompts": "gap_jax.closed_loop.world",
    "Task": "gap_jax.closed_loop.world",
    "Pictures": "gap_jax.closed_loop.world",
    "Legend": "gap_jax.report.results",
    "Metric": "gap_jax.tasks.metric",
    "MetricStyle": "gap_jax.tasks.metric",
    "Programs": "gap_jax.closed_loop.programs",
    "Run": "gap_jax.closed_loop.run",
    "run_experiment": "gap_jax.closed_loop.experiment",
    # the data and the models to begin with
    "small_world": "gap_jax.experiments.depth.small_world",
    "Prepared": "gap_jax.data.prepared",
}
_MODULES = {
    "prompts": "gap_jax.prompts",
    "parallel": "gap_jax.parallel",
    "pictures": "gap_jax.report.pictures",
}

__all__ = sorted([*_HOMES, *_MODULES])


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(_MODULES[name])
    if name not in _HOMES:
        raise AttributeError(f"module 'gap_jax' has no attribute {name!r}")
    value = getattr(importlib.import_module(_HOMES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
