"""Tests that token ids equal transformers', with placeholders and without."""

import logging
import sys
import warnings

import diffusers
import numpy as np
import pytest
import torch
import transformers

import gap_jax
from gap_jax.models.tokenizer import Tokenizer, clean_caption

TEXTS = [
    "",
    "a room",
    "A  ROOM,\n\tcartoon; 2 rooms!",
    "rooms' roomier it's",
    "café, 部屋 🏠",
    "<|endoftext|> room",
    "!!",
]
WITH_PLACEHOLDERS = [
    "<0>,<1>, photo",
    "<1>",
    "<0><1><0>",
    " a <0> room ",
    "room<1>room",
    "it's<0>'s 12<1>3",
    "é<0>\n<1>\té",
    "no placeholder, only < 0 > and <x>",
]


@pytest.fixture(params=["sd15", "sd21", "clip"])
def both(request):
    """Transformers' tokenizer and ours, from one folder."""
    if request.param == "clip":
        clip = request.getfixturevalue("clip")
        return transformers.CLIPTokenizer.from_pretrained(clip.folder), clip.clip
    model = request.getfixturevalue("models")(request.param)
    return transformers.CLIPTokenizer.from_pretrained(model.folder / "tokenizer"), model.pipe


def reference_ids(tokenizer, texts):
    return tokenizer(texts, padding="max_length", max_length=77, truncation=True).input_ids


def test_ids_equal_transformers(both):
    theirs, ours = both
    ids = ours.tokenize(TEXTS)
    assert (ids.dtype, ids.shape) == (np.int32, (len(TEXTS), 77))
    np.testing.assert_array_equal(ids, reference_ids(theirs, TEXTS))


def test_placeholders_get_the_ids_of_tokens_added_to_transformers(sd15):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(sd15.folder / "tokenizer")
    tokenizer.add_tokens(["<0>", "<1>"])
    ids = sd15.pipe.tokenize(WITH_PLACEHOLDERS, placeholders=2)
    np.testing.assert_array_equal(ids, reference_ids(tokenizer, WITH_PLACEHOLDERS))
    vocab_size = sd15.pipe.text_encoder.vocab_size
    assert ids[0, 1:4].tolist() == [vocab_size, ids[0, 2], vocab_size + 1]


def test_placeholders_are_plain_text_unless_asked_for(sd15):
    tokenizer = transformers.CLIPTokenizer.from_pretrained(sd15.folder / "tokenizer")
    texts = ["<0>,<1>, photo"]
    np.testing.assert_array_equal(sd15.pipe.tokenize(texts), reference_ids(tokenizer, texts))


def test_placeholders_beyond_nine_are_understood(sd15):
    ids = sd15.pipe.tokenize(["<12>"], placeholders=13)
    assert ids[0, 1] == sd15.pipe.text_encoder.vocab_size + 12


def test_textual_inversions_that_a_pipeline_was_saved_with_stand_for_all_their_vectors(sd15, tmp_path):
    theirs = diffusers.StableDiffusionControlNetPipeline.from_pretrained(sd15.folder)
    for name, vectors in (("<two>", 2), ("<one>", 1), ("<twelve>", 12)):
        embeddings = torch.randn(vectors, 48, generator=torch.Generator().manual_seed(vectors))
        theirs.load_textual_inversion({name: embeddings})
    theirs.save_pretrained(tmp_path)
    pipe, params = gap_jax.load_pipeline(tmp_path)
    for text in ("a <two> room", "<one>,<twelve>", "room"):
        expected = theirs.encode_prompt(text, "cpu", 1, False)[0].detach()
        context = pipe.encode_text(params, pipe.tokenize([text]))
        np.testing.assert_allclose(context, expected, atol=1e-4 * float(expected.abs().max()))
    spelled_out = pipe.tokenize(["a <two> <two>_1 room"])
    np.testing.assert_array_equal(pipe.tokenize(["a <two> room"]), spelled_out)


def test_no_texts_are_no_rows(sd15):
    assert sd15.pipe.tokenize([]).shape == (0, 77)


def test_what_is_cut_is_quoted_in_one_warning(sd15):
    texts = ["a room", "room " * 75 + "<1> and <0> it's", "photo", "room " * 76]
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ids = sd15.pipe.tokenize(texts, placeholders=2)
    assert [str(warning.message) for warning in warned] == [
        "text beyond 75 tokens was cut: \"<1> and <0> it 's\"; 'room'"
    ]
    assert warned[0].filename == __file__
    tokenizer = transformers.CLIPTokenizer.from_pretrained(sd15.folder / "tokenizer")
    tokenizer.add_tokens(["<0>", "<1>"])
    np.testing.assert_array_equal(ids, reference_ids(tokenizer, texts))


def test_transformers_adds_no_warning_of_its_own(sd15, caplog, monkeypatch):
    monkeypatch.setattr(logging.getLogger("transformers"), "propagate", True)
    tokenizer = Tokenizer(sd15.pipe.tokenizer.files)  # transformers would warn once per tokenizer
    with caplog.at_level(logging.WARNING, "transformers"), pytest.warns(UserWarning, match="was cut"):
        tokenizer.encode(["room " * 80], length=77, vocab_size=sd15.pipe.text_encoder.vocab_size)
    assert not caplog.records


def test_text_that_just_fits_is_not_warned_about(sd15):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ids = sd15.pipe.tokenize(["room " * 75])
    assert ids[0, -1] == sd15.pipe.text_encoder.eos_token_id
    assert ids[0, -2] != sd15.pipe.text_encoder.eos_token_id


def test_transformers_loads_what_is_saved(both, tmp_path):
    theirs, ours = both
    ours.tokenizer.save(tmp_path)
    for saved in (transformers.CLIPTokenizer, transformers.AutoTokenizer):
        tokenizer = saved.from_pretrained(tmp_path)
        assert reference_ids(tokenizer, TEXTS) == reference_ids(theirs, TEXTS)
        assert tokenizer.pad_token == theirs.pad_token


def test_decoding_gives_the_text_back(sd15):
    vocab_size = sd15.pipe.text_encoder.vocab_size
    ids = sd15.pipe.tokenize(["a room <0><1> café"], placeholders=2)[0, 1:]
    end = ids.tolist().index(sd15.pipe.text_encoder.eos_token_id)
    assert sd15.pipe.tokenizer.decode(ids[:end], vocab_size) == "a room <0> <1> café"


def test_tokenizers_are_equal_where_their_files_are(sd15):
    again = gap_jax.load_pipeline(sd15.folder)[0]
    assert (again.tokenizer, hash(again)) == (sd15.pipe.tokenizer, hash(sd15.pipe))
    name, content = again.tokenizer.files[0]
    other = Tokenizer(((name, content + b" "), *again.tokenizer.files[1:]))
    assert other != sd15.pipe.tokenizer


@pytest.mark.parametrize(
    ("written", "cleaned"),
    [  # by the rules of OpenAI's simple_tokenizer.py: ftfy, entities twice, blanks joined
        ("a dog\u2019s \u201cball\u201d", 'a dog\'s "ball"'),
        ("salt &amp;amp; pepper &lt;3", "salt & pepper <3"),
        ("a caf\u00c3\u00a9", "a café"),
        ("  two\n\twords\u3000here ", "two words here"),
        ("plain text", "plain text"),
    ],
)
def test_captions_are_cleaned_as_openai_does(written, cleaned):
    assert clean_caption(written) == cleaned


def test_cleaning_without_ftfy_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ftfy", None)
    with pytest.raises(ImportError, match=r"cleaning captions needs ftfy: pip install -e '\.\[captions\]'"):
        clean_caption("a room")
