"""Masks by a small random Segment Anything equal those of transformers' own classes."""

import json

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import SamConfig, SamModel, SamProcessor

from gap_jax.data.__main__ import main
from tests.data.depth_files import save
from tests.data.masked_files import HEIGHT, WIDTH, draw


@pytest.fixture
def sam(tmp_path):
    torch.manual_seed(0)
    config = SamConfig(
        vision_config={
            "hidden_size": 16,
            "output_channels": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "image_size": 32,
            "patch_size": 8,
            "window_size": 2,
            "global_attn_indexes": [0],
            "num_pos_feats": 8,
            "mlp_dim": 16,
        },
        prompt_encoder_config={
            "hidden_size": 16,
            "image_size": 32,
            "patch_size": 8,
            "mask_input_channels": 4,
        },
        mask_decoder_config={
            "hidden_size": 16,
            "mlp_dim": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "iou_head_hidden_dim": 16,
        },
    )
    folder = tmp_path / "sam"
    SamModel(config).save_pretrained(folder)
    processor = {  # with the keys of facebook/sam-vit-base
        "do_convert_rgb": True,
        "do_normalize": True,
        "do_pad": True,
        "do_rescale": True,
        "do_resize": True,
        "image_mean": [0.485, 0.456, 0.406],
        "image_processor_type": "SamImageProcessor",
        "image_std": [0.229, 0.224, 0.225],
        "pad_size": {"height": 32, "width": 32},
        "processor_class": "SamProcessor",
        "resample": 2,
        "rescale_factor": 1 / 255,
        "size": {"longest_edge": 32},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))
    return folder


def theirs(folder, pixels, **prompt):
    """Return the scores `[n,H,W]` of the best mask of each prompt, by transformers."""
    model, processor = SamModel.from_pretrained(folder).eval(), SamProcessor.from_pretrained(folder)
    inputs = processor(Image.fromarray(pixels), return_tensors="pt", **prompt)
    with torch.no_grad():
        found = model(
            pixel_values=inputs["pixel_values"],
            multimask_output="input_points" in prompt,
            **{name: inputs[name] for name in prompt},
        )
    sizes = inputs["original_sizes"], inputs["reshaped_input_sizes"]
    (scores,) = processor.post_process_masks(found.pred_masks, *sizes, binarize=False)
    best = found.iou_scores[0].argmax(-1)
    return np.stack([scores[i, j].numpy() for i, j in enumerate(best)])


def test_what_is_in_boxes_or_in_the_middle_is_cut_out(sam, tmp_path):
    for i, name in enumerate("ab"):
        save(tmp_path / "images" / "cat" / f"{name}.png", draw(i).image)
    boxes = [[4, 3, 30, 20], [0, 10, 12, 22]]
    lines = [f"cat/a.png,{x},{y},{right - x},{bottom - y}" for x, y, right, bottom in boxes]
    (tmp_path / "boxes.csv").write_text("\n".join(["file_name,x,y,width,height", *lines]))
    sheet = tmp_path / "sheet.png"
    given = ["masks", f"--sam={sam}", f"--images={tmp_path / 'images'}", f"--sheet={sheet}", "--masks"]
    main([*given, str(tmp_path / "boxed"), "--boxes", str(tmp_path / "boxes.csv")])
    main([*given, str(tmp_path / "middle")])
    for folder, image, prompt in (
        ("boxed", 0, {"input_boxes": [boxes]}),
        ("middle", 0, {"input_points": [[[[WIDTH / 2, HEIGHT / 2]]]]}),
        ("middle", 1, {"input_points": [[[[WIDTH / 2, HEIGHT / 2]]]]}),
    ):
        mask = np.asarray(Image.open(tmp_path / folder / "cat" / f"{'ab'[image]}.png")) > 0
        scores = theirs(sam, draw(image).image, **prompt)
        np.testing.assert_array_equal(mask, (scores > 0).any(0))
        assert 0.02 < mask.mean() < 0.98
    assert not (tmp_path / "boxed" / "cat" / "b.png").exists()
    drawn = np.asarray(Image.open(sheet)).reshape(2, 260, 3, 260, 3)[:, :256, :, :256]
    middles = (np.arange(256) + 0.5) / 256
    nearest = np.ix_((middles * HEIGHT).astype(int), (middles * WIDTH).astype(int))
    for row, name in enumerate("ab"):
        mask = np.asarray(Image.open(tmp_path / "middle" / "cat" / f"{name}.png"))
        image, foreground, shown = drawn[row].transpose(1, 0, 2, 3)
        np.testing.assert_array_equal(shown[..., 0], mask[nearest])
        np.testing.assert_array_equal(foreground, image * (shown > 0))


def test_masks_need_boxes_or_a_model(tmp_path):
    with pytest.raises(SystemExit, match="give --boxes or --sam"):
        main(["masks", "--images", str(tmp_path), "--masks", str(tmp_path / "masks")])
