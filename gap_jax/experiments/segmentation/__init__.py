"""The segmentation experiment: `python -m gap_jax.experiments.segmentation`."""
