"""Write ``builtin.json``: what transformers makes of the built-in model, for tests without it.

Run from the repository root with the extra ``train`` installed, each time that the model has
changed:

    PYTHONPATH=tools/train_builtin python -m tests.golden.make_builtin
"""

from __future__ import annotations

import json
from pathlib import Path

import torch
import transformers

from export import BEGINNINGS, CONTINUATION_TOKENS

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "src" / "octavo" / "builtin"
TARGET = Path(__file__).parent / "builtin.json"
CHAT = [{"role": "user", "content": "Tell me a story about a dog who lost his ball."}]
MIN_GAP = 1e-4
"""Between the logits of the two likeliest tokens: below, the order of a sum may decide."""


def main() -> None:
    tokenizer = transformers.AutoTokenizer.from_pretrained(FOLDER)
    model = transformers.AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32).eval()
    chat = tokenizer.apply_chat_template(CHAT, add_generation_prompt=True, return_dict=False)
    cases = [{"prompt": text, "prompt_ids": tokenizer(text)["input_ids"]} for text in BEGINNINGS]
    cases.append({"messages": CHAT, "prompt_ids": chat})
    for case in cases:
        case["ids"] = greedy(model, case["prompt_ids"])
        case["text"] = tokenizer.decode(case["ids"], skip_special_tokens=True)
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    lines = ",\n".join(json.dumps(case) for case in cases)
    TARGET.write_text(f'{{"made_with": {json.dumps(versions)},\n"cases": [\n{lines}\n]}}\n')


def greedy(model: transformers.PreTrainedModel, prompt_ids: list[int]) -> list[int]:
    """The likeliest tokens, up to and with one that ends the answer."""
    found = model.generate(
        torch.tensor([prompt_ids]),
        do_sample=False,
        temperature=None,
        top_p=None,
        max_new_tokens=CONTINUATION_TOKENS,
        output_logits=True,
        return_dict_in_generate=True,
    )
    for logits in found.logits:
        first, second = logits[0].topk(2).values.tolist()
        if first - second < MIN_GAP:
            raise SystemExit(f"two tokens are as likely, to {first - second:g}: take other words")
    return found.sequences[0, len(prompt_ids) :].tolist()


if __name__ == "__main__":
    main()
