"""The depth experiment: `python -m gap_jax.experiments.depth`."""
