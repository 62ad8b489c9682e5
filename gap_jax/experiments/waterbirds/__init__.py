"""The Waterbirds experiment: `python -m gap_jax.experiments.waterbirds`."""
