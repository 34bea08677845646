"""What Hugging Face renders: the table of conversations, and its answers as stored.

``python -m tests.golden.chat_goldens`` asks transformers again and writes the answers.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from tests.unit.text.small_tokenizers import SHARED_DATA

HERE = Path(__file__).parent
ANSWERS = HERE / "chat_rendered.json"
REAL_TEMPLATES = {
    "qwen2.5": ("qwen", "tokenizer_config_qwen2.5.json"),
    "qwen3": ("qwen", "tokenizer_config_qwen3.json"),
    "mistral-chatml": ("mistral-chatml", "tokenizer_config.json"),
}
"""Folder of the tokeniser and name of its configuration."""
TABLE: dict[str, Any] = json.loads((HERE / "chat_conversations.json").read_text(encoding="utf-8"))
NAMES = [*REAL_TEMPLATES, *TABLE["templates"]]


def template_folder(name: str, folder: Path) -> Path | None:
    """A model folder with this template and its tokeniser; None where the tokeniser is missing."""
    tokenizer, config_name = REAL_TEMPLATES.get(name, REAL_TEMPLATES["mistral-chatml"])
    source = SHARED_DATA / "tokenizers" / tokenizer
    if not source.is_dir():
        return None
    (folder / "tokenizer.json").symlink_to(source / "tokenizer.json")
    config = json.loads((source / config_name).read_text(encoding="utf-8"))
    if name in TABLE["templates"]:
        config["chat_template"] = TABLE["templates"][name]
    (folder / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    return folder


def conversation(name: str) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Messages and options."""
    entry = TABLE["conversations"][name]
    return entry["messages"], entry["options"]


def fingerprint(ids: list[int]) -> str:
    return hashlib.blake2b(",".join(map(str, ids)).encode(), digest_size=8).hexdigest()


def huggingface_answers(folder: Path) -> dict[str, Any]:
    """For each conversation its text and the fingerprint of its ids, or null where it fails."""
    from transformers import PreTrainedTokenizerFast

    # Not AutoTokenizer: its Llama class builds a tokeniser of its own instead of reading the file.
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    answers: dict[str, Any] = {}
    for name in TABLE["conversations"]:
        messages, options = conversation(name)
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
            ids = tokenizer.apply_chat_template(messages, return_dict=False, **options)
        except Exception:  # the template refuses: whatever it raises
            answers[name] = None
        else:
            answers[name] = {"text": text, "ids": fingerprint(ids)}
    return answers


def main() -> None:
    import tempfile

    answers = {}
    for name in NAMES:
        with tempfile.TemporaryDirectory() as folder:
            made = template_folder(name, Path(folder))
            assert made is not None, "the real tokenisers are needed"
            answers[name] = huggingface_answers(made)
    text = json.dumps(answers, ensure_ascii=False, indent=1, sort_keys=True)
    ANSWERS.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
