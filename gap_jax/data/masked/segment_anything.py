"""Masks by Segment Anything (Kirillov et al., arXiv 2304.02643), through transformers' torch class."""

from collections.abc import Sequence

import numpy as np
from PIL import Image

from gap_jax.data.masked.boxes import Sides


class SegmentAnything:
    """A segmentation of images by boxes: a `Fill` for `write_masks`.

    `model` is a folder or hub id of a `SamModel`, such as `"facebook/sam-vit-base"`. Raises ImportError
    without torch, and OSError for a model that cannot be read.
    """

    def __init__(self, model: str):
        try:
            import torch
        except ImportError as error:
            raise ImportError("Segment Anything needs torch: pip install -e '.[torch]'") from error
        from transformers import SamModel, SamProcessor

        device = "cuda" if torch.cuda.is_available() else "cpu"
        self._model = SamModel.from_pretrained(model).eval().to(device)
        self._processor = SamProcessor.from_pretrained(model)

    def __call__(self, image: Image.Image, boxes: Sequence[Sides]) -> np.ndarray:
        """Return a mask, bool `[H,W]`: what is in the boxes or, without any, what is in the image's middle.

        Without boxes, the model proposes three masks, and the one that it thinks best is taken.
        """
        import torch

        image = image.convert("RGB")
        middle = [[[image.width / 2, image.height / 2]]]
        prompt = {"input_boxes": [list(map(list, boxes))]} if boxes else {"input_points": [middle]}
        inputs = self._processor(image, return_tensors="pt", **prompt)
        sizes = inputs.pop("original_sizes"), inputs.pop("reshaped_input_sizes")
        with torch.no_grad():
            found = self._model(**inputs.to(self._model.device), multimask_output=not boxes)
        (masks,) = self._processor.post_process_masks(found.pred_masks.cpu(), *sizes)  # [boxes,masks,H,W]
        best = found.iou_scores[0].argmax(-1).cpu()  # [boxes]
        return masks[torch.arange(len(best)), best].any(0).numpy()
