"""The README's examples run as they are written, and its links lead somewhere."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from gap_jax import prompts

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_examples_run_as_written(sd15, tmp_path, monkeypatch):
    """On the folders that they name, which hold a small random pipeline and its ControlNet."""
    for name, folder in (
        ("stable-diffusion-v1-5/stable-diffusion-v1-5", sd15.folder),
        ("lllyasviel/sd-controlnet-depth", sd15.folder / "controlnet"),
    ):
        assert f'"{name}"' in README
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).symlink_to(folder, target_is_directory=True)
    depth = np.random.default_rng(0).integers(0, 256, (32, 48), np.uint8)
    Image.fromarray(depth).save(tmp_path / "depth.png")
    monkeypatch.chdir(tmp_path)

    names = {}
    for block in re.finditer(r"^```python\n(.*?)^```$", README, re.MULTILINE | re.DOTALL):
        lines_above = README.count("\n", 0, block.start(1))
        exec(compile("\n" * lines_above + block[1], "README.md", "exec"), names)

    picture = np.asarray(Image.open("room.png"))
    assert picture.shape == (32, 48, 3)
    assert picture.std() > 1
    assert np.linalg.norm(names["gradient"]) > 0
    assert prompts.load("learned_embeds.safetensors").shape == (2, 48)
    for other in ("fast", "edited", "inpainted"):
        assert np.isfinite(names[other]).all()
        assert np.abs(names[other] - names["latents"]).max() > 1e-3, other
    assert names["learned"].shape == (2, 4, 48)
    assert prompts.load("run/prompts/1/learned_embeds.safetensors").shape == (4, 48)
    assert "Accuracy" in Path("runs/reach/report/table.md").read_text(encoding="utf-8")
    assert Path("runs/reach/report/index.html").stat().st_size > 50_000
    kept = names["mask"][:, :: sd15.pipe.downscale, :: sd15.pipe.downscale, 0]
    np.testing.assert_array_equal(names["inpainted"][kept], names["source"][kept])


def test_links_lead_to_files():
    links = [link for link in re.findall(r"\]\(([^)]+)\)", README) if not link.startswith("https://")]
    assert links
    for link in links:
        assert (ROOT / link).is_file(), link
