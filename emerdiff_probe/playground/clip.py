"""Make and read CLIP's tokenizer and text encoder in the same way in transformers 4 and 5.

transformers 5 saves a tokenizer as one file, and a text encoder's weights without the
``text_model.`` before their names. transformers 4 finds no tokenizer there, and gives the text
encoder random weights with no more than a warning; `newer_parts` reads both for it.
"""

import json
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import transformers
from safetensors.torch import load_file
from tokenizers import Regex
from tokenizers.normalizers import NFC, Lowercase, Replace
from tokenizers.normalizers import Sequence as Normalizers
from tokenizers.pre_tokenizers import Split
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

__all__ = ["clip_tokenizer", "newer_parts", "words_of"]

_NORMALIZER = Normalizers([NFC(), Replace(Regex(r"\s+"), " "), Lowercase()])
_WORD = r"""'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"""
_ENCODERS: dict[str, Any] = {
    kind.__name__: kind for kind in (CLIPTextModel, CLIPTextModelWithProjection)
}
_PARTS = ("embeddings.", "encoder.", "final_layer_norm.")
_PREFIX = "text_model."


def words_of(text: str) -> list[str]:
    """Return the words that CLIP cuts a text into, in lower case.

    >>> words_of("A red house, the boy's")
    ['a', 'red', 'house', ',', 'the', 'boy', "'s"]
    """
    cut = Split(Regex(_WORD), "removed", invert=True)
    return [word for word, _ in cut.pre_tokenize_str(_NORMALIZER.normalize_str(text))]


def clip_tokenizer(
    vocabulary: dict[str, int], merges: Iterable[Sequence[str]], **settings: Any
) -> CLIPTokenizer:
    """Return a CLIP tokenizer.

    Args:
        vocabulary: Number of each token.
        merges: Pairs of tokens that are merged into one, in order of priority.
        **settings: Settings as in ``tokenizer_config.json``.
    """
    # Arguments of the class differ between transformers 4 and 5, but both read the files.
    with tempfile.TemporaryDirectory() as folder:
        pairs = [" ".join(pair) for pair in merges]
        (Path(folder) / "vocab.json").write_text(json.dumps(vocabulary))
        (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))
        (Path(folder) / "tokenizer_config.json").write_text(json.dumps(settings))
        words = CLIPTokenizer.from_pretrained(folder)
    words.name_or_path = ""
    return words


def newer_parts(folder: str | Path) -> dict[str, Any]:
    """Return the parts of a pipeline's folder that transformers 4 misreads, if it is installed.

    Args:
        folder: Folder of a pipeline saved by diffusers. Anything else, such as a hub id, has no
            such parts.

    Returns:
        Tokenizers and text encoders by name, in the dtype they are stored in.
    """
    if int(transformers.__version__.partition(".")[0]) >= 5:
        return {}
    parts: dict[str, Any] = {}
    for number in ("", "_2"):
        words, text = (Path(folder) / f"{name}{number}" for name in ("tokenizer", "text_encoder"))
        if (words / "tokenizer.json").is_file() and not (words / "vocab.json").is_file():
            model = json.loads((words / "tokenizer.json").read_text())["model"]
            settings = json.loads((words / "tokenizer_config.json").read_text())
            parts[words.name] = clip_tokenizer(model["vocab"], model["merges"], **settings)
        if (text / "model.safetensors").is_file():
            state = load_file(text / "model.safetensors")
            if any(name.startswith(_PARTS) for name in state):
                parts[text.name] = _text_encoder(text, state)
    return parts


def _text_encoder(folder: Path, state: dict[str, Any]) -> Any:
    (name,) = json.loads((folder / "config.json").read_text())["architectures"]
    kind = _ENCODERS[name]
    encoder = kind(kind.config_class.from_pretrained(folder))
    own = encoder.state_dict()
    named = {each if each in own else _PREFIX + each: state[each] for each in state}
    encoder.load_state_dict(named)
    return encoder.to(next(iter(named.values())).dtype).eval()
