"""Files of target features, written by torch in the forms that the authors publish; bad ones are refused."""

import io
import os
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from gap_jax.stages.target_features import load_target_features

FEATURES = {"mean": torch.randn(16), "std": torch.rand(16)}
STATES = torch.randn(7, 6)


def save_as_from_cuda(content, path):
    """Write a torch pickle that says that its tensors lay on a GPU, as a file saved on one does."""
    stream = io.BytesIO()
    torch.save(content, stream)
    with zipfile.ZipFile(stream) as source, zipfile.ZipFile(path, "w") as target:
        for entry in source.infolist():
            data = source.read(entry)
            if entry.filename.endswith("data.pkl"):
                cpu, cuda = b"X\x03\x00\x00\x00cpu", b"X\x06\x00\x00\x00cuda:0"
                assert cpu in data
                data = data.replace(cpu, cuda)
            target.writestr(entry, data)


@pytest.mark.parametrize("save", [torch.save, save_as_from_cuda])
def test_statistics_of_image_features_are_read(tmp_path, save):
    save(FEATURES, tmp_path / "night.pt")
    found = load_target_features(tmp_path / "night.pt")
    np.testing.assert_array_equal(found.mean, FEATURES["mean"])
    np.testing.assert_array_equal(found.std, FEATURES["std"])


@pytest.mark.parametrize("save", [torch.save, save_as_from_cuda])
def test_text_states_alone_are_read_in_any_precision(tmp_path, save):
    save(STATES.bfloat16(), tmp_path / "text.pt")
    found = load_target_features(tmp_path / "text.pt")
    np.testing.assert_array_equal(found.mean, STATES.bfloat16().float())
    assert found.mean.dtype == np.float32 and found.std is None


def test_safetensors_are_read(tmp_path):
    save_file({"mean": STATES, "std": STATES.abs()}, tmp_path / "text.safetensors")
    found = load_target_features(tmp_path / "text.safetensors")
    np.testing.assert_array_equal(found.mean, STATES)
    np.testing.assert_array_equal(found.std, STATES.abs())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"std": torch.ones(3)}, r"must hold the tensor mean and, optionally, std; found std"),
        ({"mean": torch.ones(3), "norm": torch.ones(3)}, "found mean, norm"),
        ({"mean": torch.ones(3), "std": torch.ones(4)}, r"must both have shape.*found \[4\] of std"),
        ({"mean": torch.ones(1, 2, 3)}, r"shape \[D\].*or \[L, D\], text states; found \[1, 2, 3\] of mean"),
        ({"mean": torch.zeros(0)}, r"found \[0\] of mean"),
        ({"mean": torch.tensor([1, float("nan")])}, "mean in .*must be finite, found NaN"),
        ({"mean": torch.ones(2), "std": -torch.ones(2)}, "std in .*must not be negative, found -1"),
        ({"mean": 3.0}, "'mean' in .* must be a tensor, found float"),
    ],
)
def test_other_content_is_named(tmp_path, content, message):
    torch.save(content, tmp_path / "target.pt")
    with pytest.raises(ValueError, match=message) as caught:
        load_target_features(tmp_path / "target.pt")
    assert len(str(caught.value)) < 500


class Harmful:
    def __reduce__(self):
        return os.mkdir, (str(self.folder),)


def test_no_code_in_a_pickle_runs(tmp_path):
    harmful = Harmful()
    harmful.folder = tmp_path / "made by the pickle"
    torch.save({"mean": harmful}, tmp_path / "target.pt")
    with pytest.raises(ValueError, match=r"cannot read .*target\.pt as weights"):
        load_target_features(tmp_path / "target.pt")
    assert not harmful.folder.exists()


def test_missing_files_and_other_suffixes_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"there is no file of target features .*night\.pt"):
        load_target_features(tmp_path / "night.pt")
    (tmp_path / "night.txt").write_text("dark")
    with pytest.raises(ValueError, match=r"suffixes \.safetensors, \.bin, \.pt"):
        load_target_features(tmp_path / "night.txt")
