"""The iWildCam experiment: `python -m gap_jax.experiments.iwildcam`."""
