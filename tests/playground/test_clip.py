"""CLIP's text parts, made and read by transformers 4 and 5."""

import json

import pytest
import torch
import transformers
from safetensors.torch import load_file

from emerdiff_probe import playground
from emerdiff_probe.playground import clip

TEXT = "A red house, and 2 blue dogs: the boy's naïve  cow"


@pytest.fixture
def older(monkeypatch):
    """Has the installed version taken for one that misreads the folders of version 5."""
    monkeypatch.setattr(transformers, "__version__", "4.57.0")


def test_words_are_cut_as_clips_tokenizer_cuts_them():
    # Written down from openai/CLIP's pattern: letters together, digits one by one.
    assert " ".join(clip.words_of(TEXT)) == "a red house , and 2 blue dogs : the boy 's naïve cow"
    assert clip.words_of("12") == ["1", "2"]


def test_nothing_is_replaced_where_a_folder_can_be_read(older, tmp_path):
    assert clip.newer_parts("stable-diffusion-v1-5/stable-diffusion-v1-5") == {}
    words = tmp_path / "tokenizer"
    words.mkdir()
    for name in ("tokenizer.json", "vocab.json"):
        (words / name).write_text("{}")
    assert clip.newer_parts(tmp_path) == {}


def test_the_bundled_model_reads_alike_in_both_versions(older, monkeypatch):
    folder = playground.folder()
    parts = clip.newer_parts(folder)
    monkeypatch.undo()
    assert parts.keys() == {"tokenizer", "text_encoder"}
    stored = json.loads((folder / "tokenizer" / "tokenizer.json").read_text())["model"]["vocab"]
    tokens = ("<|startoftext|>", "a</w>", "red</w>", "house</w>", "<|endoftext|>")
    words = parts["tokenizer"]
    assert words("A red house").input_ids == [stored[token] for token in tokens]
    assert words.model_max_length == 64
    weights = load_file(folder / "text_encoder" / "model.safetensors")
    state = parts["text_encoder"].state_dict()
    assert len(state) == len(weights)
    for name, tensor in weights.items():
        (same,) = (each for key, each in state.items() if key.endswith(name))
        torch.testing.assert_close(same, tensor, rtol=0, atol=0)


def test_versions_that_save_so_read_it_themselves(monkeypatch):
    monkeypatch.setattr(transformers, "__version__", "5.0.0")
    assert clip.newer_parts(playground.folder()) == {}


def test_a_tokenizer_is_made_of_a_vocabulary():
    vocabulary = {
        token: number for number, token in enumerate(["a", "b", "a</w>", "b</w>", "ab</w>"])
    }
    vocabulary |= {"<|startoftext|>": 5, "<|endoftext|>": 6}
    words = clip.clip_tokenizer(vocabulary, [("a", "b</w>")], model_max_length=7)
    assert words("ab ba").input_ids == [5, 4, 1, 2, 6]
    assert (words.model_max_length, words.name_or_path) == (7, "")
    assert clip.clip_tokenizer(vocabulary, [])("ab").input_ids == [5, 0, 3, 6]
