"""Turns a training run into the model folder that is packaged: see README.md beside this file.

    python tools/train_builtin/export.py ../shared/data/text build/builtin src/octavo/builtin

Weights are rounded to bfloat16 and saved under the names that everybody reads. Transformers must
load the folder and find the same logits, or this fails. The held-out stories go to the folder of
the run, and never into the package. Of the model's card, README.md in the folder, the parts between
markers are written anew.
"""

import argparse
import json
import shutil
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer

from card import fill_card, less_repetition, quoted, row_of
from corpus import SEPARATOR, read_corpus
from make_tokenizer import END_OF_TEXT, tokenizer_config
from model import CONFIG, Stories
from train import held_out_bits

GENERATION = {
    "bos_token_id": CONFIG["bos_token_id"],
    "eos_token_id": CONFIG["eos_token_id"],
    "do_sample": True,
    "temperature": 0.5,
    "top_p": 0.9,
}
BEGINNINGS = (
    "Once upon a time, there was a little girl named",
    "Lily and Ben were playing in the garden when",
    "A little mouse lived in a hole under the stairs.",
)
"""Of those in tests/golden/beginnings.txt; in the card, with what the model makes of them."""
CONTINUATION_TOKENS = 200
MAX_FOLDER_BYTES = 6_000_000
MAX_LOGIT_ERROR = 1e-4


def rounded(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The weights as they are packaged; the head is the embedding, and stored once."""
    return {f"model.{name}": value.to(torch.bfloat16) for name, value in sorted(state.items())}


def model_of(weights: dict[str, torch.Tensor]) -> Stories:
    """The model in float32, for comparing."""
    model = Stories().eval()
    state = {name.removeprefix("model."): value.float() for name, value in weights.items()}
    model.load_state_dict(state)
    return model


def write_folder(weights: dict[str, torch.Tensor], tokenizer: Path, folder: Path) -> None:
    """Everything but the card."""
    folder.mkdir(parents=True, exist_ok=True)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    shutil.copyfile(tokenizer, folder / "tokenizer.json")
    for name, content in (
        ("config.json", CONFIG),
        ("generation_config.json", GENERATION),
        ("tokenizer_config.json", tokenizer_config()),
    ):
        (folder / name).write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    (folder / "model.safetensors").chmod(0o644)  # its writer lets nobody else read it


def check(folder: Path, model: Stories, tokenizer: Tokenizer, story: str) -> float:
    """Load the folder with transformers; the largest difference of a logit."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    ids = AutoTokenizer.from_pretrained(folder)(story)["input_ids"]
    if ids != tokenizer.encode(story).ids:
        raise SystemExit(f"{folder}: transformers reads a story as other tokens")
    loaded = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    row = torch.tensor([ids])
    with torch.no_grad():
        difference = loaded(row).logits - model.logits(model(row))
    largest = difference.abs().max().item()
    if largest > MAX_LOGIT_ERROR:
        raise SystemExit(f"{folder}: logits differ from those of the training by {largest:g}")
    return largest


@torch.no_grad()
def continued(model: Stories, tokenizer: Tokenizer, beginning: str) -> str:
    """What follows a beginning when the likeliest token is taken each time."""
    ids = tokenizer.encode(beginning).ids
    first = len(ids)
    while len(ids) - first < CONTINUATION_TOKENS:
        hidden = model(torch.tensor([ids]))[0, -1]
        token = int(model.logits(hidden).argmax())
        if token in CONFIG["eos_token_id"]:
            break
        ids.append(token)
    return tokenizer.decode(ids[first:], skip_special_tokens=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("text", type=Path, help="the folder with the TinyStories files")
    parser.add_argument("run", type=Path, help="the folder of train.py and unloop.py")
    parser.add_argument("folder", type=Path, help="the model folder to write")
    arguments = parser.parse_args()
    run, folder = arguments.run, arguments.folder
    saved = torch.load(run / "unlooped.pt", map_location="cpu")
    tokenizer = Tokenizer.from_file(str(run / "tokenizer.json"))
    held_out = read_corpus(arguments.text).held_out
    (run / "held_out.txt").write_text(f"\n{SEPARATOR}\n".join(held_out) + "\n", encoding="utf-8")
    weights = rounded(saved["model"])
    write_folder(weights, run / "tokenizer.json", folder)
    model = model_of(weights)
    error = check(folder, model, tokenizer, held_out[0])
    print(f"transformers finds the same logits, to {error:.1e}")
    bits = held_out_bits(model, tokenizer, held_out)
    model.eval()
    row = row_of(saved["step"], run / "loss.jsonl")
    print(f"held-out bits per character: {bits:.4f}")
    continuations = "\n\n".join(
        f"> **{beginning}**{quoted(continued(model, tokenizer, beginning))}"
        for beginning in BEGINNINGS
    )
    changed = less_repetition(run / "unloop.jsonl")
    loss = (
        f"After {row['step']:,} steps, {row['tokens']:,} tokens: training loss {row['loss']:.3f}"
        f" nats a token, and {row['held_out_bits']:.3f} bits a character on the {len(held_out)}"
        f" held-out stories, each alone after `{END_OF_TEXT}`. {changed}"
        f" The packaged weights, in float32: {bits:.3f} bits a character on the held-out stories."
    )
    fill_card(folder / "README.md", {"loss": loss, "continuations": continuations})
    size = sum(path.stat().st_size for path in folder.iterdir())
    print(f"{folder}: {size:,} bytes")
    if size >= MAX_FOLDER_BYTES:
        raise SystemExit(f"{folder}: more than {MAX_FOLDER_BYTES:,} bytes")


if __name__ == "__main__":
    main()
