"""Tokeniser: files of a folder in, the ids that Hugging Face's tokenisers give out."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from octavo.core.errors import InvalidRequest, ModelError, UnsupportedModel
from octavo.text.tokenizer import Tokenizer
from tests.unit.text.small_tokenizers import (
    BOS,
    END,
    SHARED_DATA,
    THINK,
    added_token,
    byte_level_json,
    real_folder,
    sentencepiece_json,
    write_folder,
)

Real = Callable[[str], Tokenizer]


def ids_of(text: str) -> list[int]:
    """Of the byte-level tokeniser, where no merge applies."""
    return list(text.encode())


def test_text_round_trips(byte_level: Tokenizer, sentencepiece: Tokenizer) -> None:
    for text in ["hello world", " two  spaces ", "🦙 é 你好\n\ttab", "", "nul\0"]:
        assert byte_level.decode(byte_level.encode(text)) == text
        assert sentencepiece.decode(sentencepiece.encode(text)) == text


def test_ids_and_names(byte_level: Tokenizer) -> None:
    assert (byte_level.bos_id, byte_level.eos_id) == (BOS, END)
    assert byte_level.vocab_size == THINK + 1
    assert byte_level.special_ids == {BOS, END}
    assert byte_level.names == {"bos_token": "<|bos|>", "eos_token": "<|end|>"}


def test_typed_special_tokens_stay_text(byte_level: Tokenizer) -> None:
    assert byte_level.encode("a<|end|>b") == ids_of("a<|end|>b")
    assert byte_level.decode(byte_level.encode("a<|end|>b")) == "a<|end|>b"


def test_templates_may_write_special_tokens(byte_level: Tokenizer) -> None:
    assert byte_level.encode_template("<|bos|>a<|end|>") == [BOS, *ids_of("a"), END]
    assert byte_level.encode("<|bos|>") == ids_of("<|bos|>"), "the switch is set back"


def test_tokens_that_are_added_but_not_special_are_always_parsed(byte_level: Tokenizer) -> None:
    assert byte_level.encode("a<think>") == [*ids_of("a"), THINK]
    assert byte_level.decode([THINK]) == "<think>"


def test_literals_are_never_control_tokens(byte_level: Tokenizer) -> None:
    ids = byte_level.encode_template("<|bos|>aXb<|end|>X", {"X": "<|end|>"})
    assert ids == [BOS, *ids_of("a<|end|>b"), END, *ids_of("<|end|>")]


def test_literals_join_with_the_text_around_them(byte_level: Tokenizer) -> None:
    """One encoding of the whole text: merges go across the border of a literal."""
    ids = byte_level.encode_template("<|bos|>heX", {"X": "llo"})
    assert ids == byte_level.encode_template("<|bos|>hello")


def test_literals_keep_the_spaces_that_a_control_token_swallows(sentencepiece: Tokenizer) -> None:
    """``</s>`` is declared to swallow white space on its right."""
    text = "<s>he </s>   ll é w"
    with_literal = sentencepiece.encode_template(text.replace("w", "X"), {"X": "w"})
    assert with_literal == sentencepiece.encode_template(text)
    assert with_literal.count(2) == 1


def test_unknown_characters_are_no_control_tokens(tmp_path: Path) -> None:
    files = sentencepiece_json()
    files["model"]["byte_fallback"] = False
    tokenizer = Tokenizer.load(write_folder(tmp_path, files))
    ids = tokenizer.encode_template("<s>a語X", {"X": "b"})
    assert ids == tokenizer.encode_template("<s>a語b")
    assert 0 in ids


def test_decoding_control_tokens_on_demand(byte_level: Tokenizer) -> None:
    ids = [BOS, *ids_of("a"), END]
    assert byte_level.decode(ids) == "a"
    assert byte_level.decode(ids, skip_special=False) == "<|bos|>a<|end|>"


def test_ids_beyond_the_vocabulary_decode_to_nothing(byte_level: Tokenizer) -> None:
    for token_id in (THINK + 1, THINK + 2, 10**6):
        assert byte_level.decode([*ids_of("a"), token_id], skip_special=False) == "a"
        assert byte_level.token_bytes(token_id) == b""


def test_token_bytes_need_not_be_characters(
    byte_level: Tokenizer, sentencepiece: Tokenizer
) -> None:
    assert byte_level.token_bytes(0xF0) == b"\xf0"
    assert sentencepiece.token_bytes(3 + 0xF0) == b"\xf0"
    (word,) = sentencepiece.encode("he", add_special=False)
    assert sentencepiece.token_bytes(word) == b" he"


@pytest.mark.parametrize("wanted", [True, False])
def test_first_token_is_added_when_asked_for(tmp_path: Path, wanted: bool) -> None:
    config = {"bos_token": "<s>", "eos_token": "</s>", "add_bos_token": wanted}
    config["add_eos_token"] = wanted
    tokenizer = Tokenizer.load(write_folder(tmp_path, sentencepiece_json(), config))
    plain = tokenizer.encode("he", add_special=False)
    assert tokenizer.encode("he") == ([1, *plain, 2] if wanted else plain)
    assert tokenizer.encode_template("he") == plain


@pytest.mark.parametrize("config_says", [True, False])
def test_first_token_is_added_once(tmp_path: Path, config_says: bool) -> None:
    """tokenizer.json adds it itself; the configuration neither doubles nor removes it."""
    files = sentencepiece_json()
    files["post_processor"] = {
        "type": "TemplateProcessing",
        "single": [
            {"SpecialToken": {"id": "<s>", "type_id": 0}},
            {"Sequence": {"id": "A", "type_id": 0}},
        ],
        "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
        "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}},
    }
    config = {"bos_token": "<s>", "add_bos_token": config_says}
    tokenizer = Tokenizer.load(write_folder(tmp_path, files, config))
    assert tokenizer.encode("he").count(1) == 1


def test_stored_truncation_and_padding_are_not_applied(tmp_path: Path) -> None:
    files = byte_level_json()
    files["truncation"] = {
        "direction": "Right",
        "max_length": 2,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    files["padding"] = {
        "strategy": {"Fixed": 8},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "x",
    }
    assert len(Tokenizer.load(write_folder(tmp_path, files)).encode("abcd")) == 4


def test_tokens_that_only_the_configuration_knows(tmp_path: Path) -> None:
    new = THINK + 1
    config = {"added_tokens_decoder": {str(new): added_token(new, "<|new|>")}}
    tokenizer = Tokenizer.load(write_folder(tmp_path, byte_level_json(), config))
    assert tokenizer.vocab_size == new + 1
    assert tokenizer.encode_template("<|new|>") == [new]
    assert tokenizer.encode("<|new|>") == ids_of("<|new|>")


def test_flags_in_the_configuration_win(tmp_path: Path) -> None:
    config = {"added_tokens_decoder": {str(THINK): added_token(THINK, "<think>", special=True)}}
    tokenizer = Tokenizer.load(write_folder(tmp_path, byte_level_json(), config))
    assert THINK in tokenizer.special_ids
    assert tokenizer.encode("<think>") == ids_of("<think>")


def test_older_files_name_and_add_tokens(tmp_path: Path) -> None:
    new = THINK + 1
    write_folder(tmp_path, byte_level_json(), {})
    names = {"eos_token": {"content": "<|new|>"}, "bos_token": "<|bos|>"}
    (tmp_path / "special_tokens_map.json").write_text(json.dumps(names))
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<|new|>": new, "<|end|>": END}))
    tokenizer = Tokenizer.load(tmp_path)
    assert (tokenizer.bos_id, tokenizer.eos_id) == (BOS, new)
    assert new in tokenizer.special_ids


@pytest.mark.parametrize(
    "config",
    [{"eos_token": "<think>"}, {"additional_special_tokens": [{"content": "<think>"}]}],
)
def test_a_token_with_a_special_name_is_special(tmp_path: Path, config: dict[str, object]) -> None:
    tokenizer = Tokenizer.load(write_folder(tmp_path, byte_level_json(), config))
    assert THINK in tokenizer.special_ids
    assert tokenizer.encode("<think>") == ids_of("<think>")
    assert tokenizer.decode([THINK]) == ""


def test_a_name_without_a_token_adds_nothing(tmp_path: Path) -> None:
    config = {"pad_token": "[PAD]", "eos_token": "[NOWHERE]"}
    tokenizer = Tokenizer.load(write_folder(tmp_path, byte_level_json(), config))
    assert tokenizer.eos_id is None
    assert tokenizer.vocab_size == THINK + 1


def test_folder_without_tokenizer_json(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"no tokenizer\.json.*model folder"):
        Tokenizer.load(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ModelError, match=r"make tokenizer\.json from it once"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("content", [b"", b"{", b"{}", b"[]", b"\0\xff", b'{"model": {}}'])
def test_damaged_tokenizer_json(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(ModelError, match=r"tokenizer\.json cannot be read"):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize(
    "config",
    [
        {"bos_token": 3},
        {"additional_special_tokens": 7},
        {"additional_special_tokens": [7]},
        {"added_tokens_decoder": {"x": {"content": "<|new|>"}}},
        {"added_tokens_decoder": {"303": {}}},
        {"added_tokens_decoder": [1]},
        {"added_tokens_decoder": {"999": {"content": "<|new|>"}}},
    ],
)
def test_damaged_configuration(tmp_path: Path, config: dict[str, object]) -> None:
    with pytest.raises(ModelError):
        Tokenizer.load(write_folder(tmp_path, byte_level_json(), config))


def test_configuration_that_is_no_object(tmp_path: Path) -> None:
    write_folder(tmp_path, byte_level_json())
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ModelError, match="tokenizer_config"):
        Tokenizer.load(tmp_path)


def test_lone_surrogates_are_refused(byte_level: Tokenizer) -> None:
    with pytest.raises(InvalidRequest, match=r"U\+D800"):
        byte_level.encode("a\ud800")
    with pytest.raises(InvalidRequest, match="character 0"):
        byte_level.encode_template("\udfffb")


def test_text_without_tokens_is_the_request_s_error(tmp_path: Path) -> None:
    files = byte_level_json() | {"decoder": None, "added_tokens": []}
    files["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "?"}
    tokenizer = Tokenizer.load(write_folder(tmp_path, files))
    assert tokenizer.encode("a") == [0]
    with pytest.raises(InvalidRequest, match="cannot be tokenised"):
        tokenizer.encode("b")


def test_threads_do_not_see_each_other_s_switch(byte_level: Tokenizer) -> None:
    def work(number: int) -> list[int]:
        encode = byte_level.encode if number % 2 else byte_level.encode_template
        return encode("<|end|>" * 50)

    with ThreadPoolExecutor(4) as pool:
        answers = list(pool.map(work, range(200)))
    assert all(ids == ids_of("<|end|>" * 50) for ids in answers[1::2])
    assert all(ids == [END] * 50 for ids in answers[::2])


@pytest.mark.parametrize(
    "decoder",
    [
        None,
        {"type": "WordPiece", "prefix": "##", "cleanup": True},
        {"type": "Sequence", "decoders": [{"type": "Fuse"}, {"type": "ByteFallback"}]},
    ],
)
def test_other_decoders_are_refused_when_text_is_wanted(
    tmp_path: Path, decoder: dict[str, object] | None
) -> None:
    files = byte_level_json() | {"decoder": decoder}
    tokenizer = Tokenizer.load(write_folder(tmp_path, files))
    assert tokenizer.encode("a") == ids_of("a")
    with pytest.raises(UnsupportedModel, match="supported are"):
        tokenizer.decode([1])


def test_forking_after_use_prints_nothing(tmp_path: Path) -> None:
    """The package warns on forks after it used its threads; we never make it use them."""
    write_folder(tmp_path, byte_level_json())
    program = (
        "import os, sys\n"
        "from octavo.text.tokenizer import Tokenizer\n"
        "tokenizer = Tokenizer.load(sys.argv[1])\n"
        "tokenizer.encode('hello ' * 10000)\n"
        "child = os.fork()\n"
        "tokenizer.encode('hello')\n"
        "if child: os.waitpid(child, 0)\n"
    )
    environment = {name: os.environ[name] for name in os.environ if "TOKENIZERS" not in name}
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        env=environment,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize("name", ["gpt2", "llama2", "qwen"])
def test_real_tokenisers_equal_their_vectors(real: Real, name: str) -> None:
    folder = real_folder(name)
    tokenizer = real(name)
    texts = (folder / "vectors.inp").read_bytes().decode().split("\n__ggml_vocab_test__\n")
    expected = [
        [int(number) for number in line.split()]
        for line in (folder / "vectors.out").read_text().split("\n")
    ]
    assert len(texts) == len(expected) == 47
    for text, ids in zip(texts, expected, strict=True):
        assert tokenizer.encode(text, add_special=False) == ids


def test_real_model_folders_begin_with_their_first_token() -> None:
    folder = SHARED_DATA / "models" / "story-656k"
    if not folder.is_dir():
        pytest.skip("needs the real model story-656k beside the checkout")
    golden = json.loads((folder / "golden_greedy.json").read_text())
    assert Tokenizer.load(folder).encode(golden["prompt"]) == golden["prompt_ids"]
