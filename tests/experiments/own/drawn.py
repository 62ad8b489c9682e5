"""What the tests of one's own folder are made of: arguments, class maps, a network."""

import shlex

import jax
import numpy as np

from gap_jax.models.resnet import ResNet
from gap_jax.weights.classifier import save_classifier

CLASSES = ("cat", "dog", "fox")
SEGMENTER = """
import torch

def segmenter():
    return torch.nn.Conv2d(3, 3, 4, 4)
"""
QUICK = shlex.split(
    "--quick --pixels 64 --sampling.size 64 --optimizing.prompts 1 --optimizing.steps 2 "
    "--optimizing.batch 2 --optimizing.micro-batch 2 --optimizing.denoising-steps 2 "
    "--optimizing.adversarial-start 1 --generating.images 8 --generating.batch 4 "
    "--generating.denoising-steps 2 --finetuning.steps 4 --finetuning.batch 4 --evaluating.images 8 "
    "--evaluating.severities --evaluating.efficiency"
)
SHORT = [*QUICK, "--size", "64"]  # class maps have no size of their own


def class_map(seed):
    """A class map of 64 x 64 pixels: squares of the classes 1 to 3, and pixels without a class."""
    squares = np.random.default_rng(seed).choice(np.array([0, 1, 2, 3], np.uint8), (8, 8))
    return squares.repeat(8, 0).repeat(8, 1)


def save_resnet(folder, classes):
    """Write a random classifier of these classes."""
    model = ResNet(4, (8, 16), (1, 1), num_labels=len(classes), label_names=classes)
    params = jax.device_get(jax.jit(model.init)(jax.random.key(0), *model.example_inputs())["params"])
    save_classifier(model, params, folder)
