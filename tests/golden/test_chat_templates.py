"""Chat templates against what Hugging Face rendered, text and ids, without transformers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from octavo.core.errors import InvalidRequest
from octavo.text.chat_template import ChatTemplate
from octavo.text.tokenizer import Tokenizer
from tests.golden import chat_goldens


@pytest.mark.parametrize("name", chat_goldens.NAMES)
def test_conversations_render_as_hugging_face_renders_them(name: str, tmp_path: Path) -> None:
    folder = chat_goldens.template_folder(name, tmp_path)
    if folder is None:
        pytest.skip("needs the real tokenisers in shared/data beside the checkout")
    stored = json.loads(chat_goldens.ANSWERS.read_text(encoding="utf-8"))[name]
    template = ChatTemplate.load(folder, Tokenizer.load(folder))
    num_rendered = 0
    for case, expected in stored.items():
        messages, options = chat_goldens.conversation(case)
        if expected is None:
            with pytest.raises(InvalidRequest):
                template.render_chat(messages, **options)
            continue
        num_rendered += 1
        assert template.render_chat(messages, **options) == expected["text"], case
        ids = template.encode_chat(messages, **options)
        assert chat_goldens.fingerprint(ids) == expected["ids"], case
    assert num_rendered >= 5
