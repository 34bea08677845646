"""Requests are made of what stands in the story, and rendered as the chat template does."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator
from dataclasses import replace

import pytest
from tokenizers import Tokenizer

from batches import BOYS, FIRST_SHARES, GIRLS, Mixture, Shares, renamed
from conversations import (
    ASKS,
    ASKS_AGAIN,
    ASKS_FOR_ANY,
    ASKS_FOR_MORE,
    GO_ON,
    RARE,
    Exchange,
    Requests,
    gone_on_with,
    hastily,
    plainly,
    plural,
)
from made_stories import Teller
from make_tokenizer import ASSISTANT, CHAT_TEMPLATE, END_OF_TEXT, END_OF_TURN, USER
from octavo.models.builtin import builtin_folder
from octavo.runtime.model_text import ModelText

STORY = (
    "Once upon a time, there was a little dog named Max. Max loved to run in the park. One day, it"
    " rained. He lost his ball. He saw a needle near the old bridge. Lily helped him."
)
NUM_DRAWN = 400
REAL_ONLY = Shares(made=0.0, chat=0.5, begun=0.0, made_chat=0.0, plain=0.0, things=0.0, talk=0.0)


@pytest.fixture(scope="module")
def requests() -> Requests:
    others = ["The needle and the bridge are old, and near."] * 4 + ["A park."] * (RARE + 1)
    return Requests([STORY, *others])


def drawn(requests: Requests, story: str, *, again: bool = False) -> set[str]:
    chance = random.Random(1)
    said = [requests.request(story, chance, again=again) for _ in range(NUM_DRAWN)]
    assert {one.answer for one in said} == {story}
    return {one.request for one in said if one.request is not None}


def topics(found: set[str], asks: tuple[str, ...]) -> set[str]:
    """What follows "about", of all requests that ask for something."""
    heads = {ask.partition("{}")[0] for ask in asks}
    return {
        request.removeprefix(head).rstrip(".!?").removesuffix(", please")
        for request in found
        for head in heads
        if request.startswith(head)
    }


def test_requests_are_about_what_is_in_the_story(requests: Requests) -> None:
    found = topics(drawn(requests, STORY), ASKS)
    assert "a little dog who lost his ball" in found
    assert "a little dog named Max" in found
    assert "a needle" in found
    assert "Max and a bridge" in found
    assert not any(topic.endswith(" near") for topic in found), "that is no noun"
    assert not any("park" in topic and "who" not in topic for topic in found), "parks are common"


def test_some_requests_ask_for_any_story(requests: Requests) -> None:
    assert drawn(requests, STORY) & set(ASKS_FOR_ANY)
    assert drawn(requests, "Nothing.") <= set(ASKS_FOR_ANY)


def test_later_requests_say_that_they_are(requests: Requests) -> None:
    heads = tuple(ask.partition("{}")[0] for ask in ASKS_AGAIN)
    found = drawn(requests, STORY, again=True)
    assert found & set(ASKS_FOR_MORE)
    assert all(request.startswith(heads) for request in found - set(ASKS_FOR_MORE))


def test_the_same_seed_makes_the_same_requests(requests: Requests) -> None:
    first, second = (
        [requests.request(STORY, chance) for _ in range(20)]
        for chance in (random.Random(5), random.Random(5))
    )
    assert first == second


def test_names_change_places_all_over_a_story() -> None:
    story = "Lily met Tom. Tom saw Lily, and Lily's cat Zed. The lily was white."
    changed = renamed(story, random.Random(3))
    words = changed.replace("'s", "").replace(".", "").replace(",", "").split()
    girl, boy = words[0], words[2]
    assert girl in GIRLS
    assert boy in BOYS
    assert changed == story.replace("Lily", girl).replace("Tom", boy)


@pytest.fixture(scope="module")
def text() -> ModelText:
    return ModelText(builtin_folder())


def conversations(text: ModelText) -> Iterator[tuple[list[int], list[float]]]:
    """What the model learns from, cut where a text begins: ids, and what the next ones count."""
    tokenizer = Tokenizer.from_file(str(builtin_folder() / "tokenizer.json"))
    ids, _, weights = Mixture([STORY] * 8, tokenizer, 2, REAL_ONLY).rows(1, 12_000)
    begin = tokenizer.token_to_id(END_OF_TEXT)
    starts = [position for position, token in enumerate(ids[0]) if token == begin]
    for first, last in itertools.pairwise(starts):
        yield ids[0][first:last].tolist(), weights[0][first : last - 1].tolist()


def test_chats_are_rendered_as_in_training(text: ModelText) -> None:
    tokenizer = text.tokenizer
    assert tokenizer is not None
    user, assistant, end = (
        tokenizer.encode_template(token)[0] for token in (USER, ASSISTANT, END_OF_TURN)
    )
    num_turns: set[int] = set()
    for ids, weights in conversations(text):
        if user not in ids:
            continue
        messages, role, position = [], "", 1
        while position < len(ids):
            role = {user: "user", assistant: "assistant"}[ids[position]]
            stop = ids.index(end, position)
            messages.append({"role": role, "content": tokenizer.decode(ids[position + 1 : stop])})
            position = stop + 1
        rendered = text.template.encode_chat(messages[:-1])
        assert ids[: len(rendered)] == list(rendered)
        answer = tokenizer.encode_template(messages[-1]["content"] + END_OF_TURN)
        assert ids[len(rendered) :] == list(answer)
        # Nothing of what is given is learned, and all of the answer.
        assert set(weights[len(rendered) - 1 :]) == {1.0}
        request = rendered.index(user)
        assert set(weights[request - 1 : rendered.index(assistant)]) == {0.0}
        num_turns.add(len(messages))
    assert {2, 4} <= num_turns


def test_stories_alone_begin_as_prompts_do(text: ModelText) -> None:
    assert text.tokenizer is not None
    prompt = list(text.encode("Once upon a time,").token_ids)
    alone = [ids for ids, _ in conversations(text) if ids[: len(prompt)] == prompt]
    assert alone
    assert {text.tokenizer.decode(ids)[:20] for ids in alone} == {STORY[:20]}


def test_the_package_has_the_template_of_the_training(text: ModelText) -> None:
    config = (builtin_folder() / "tokenizer_config.json").read_text(encoding="utf-8")
    assert json.loads(config)["chat_template"] == CHAT_TEMPLATE


def test_a_topic_alone_is_followed_by_the_story_and_a_beginning_by_the_rest() -> None:
    chance = random.Random(3)
    teller = Teller(chance)
    num_topics = num_unfinished = num_asked = 0
    for _ in range(300):
        made = teller.story()
        said = plainly(made.topic, made.text, chance)
        assert said.request is not None
        if said.answer == made.text:
            num_topics += 1
            assert said.about == made.topic
            asked = said.request.rstrip(".!").removesuffix(" please").lower()
            assert asked in made.topic.lower() or asked in plural(made.topic).lower()
            continue
        beginning = said.about
        assert made.text in (f"{beginning} {said.answer}", f"{beginning}\n{said.answer}")
        assert beginning.count('"') % 2 == 0, "somebody speaks there"
        assert not beginning.endswith('"') or not said.answer[0].islower(), "the sentence goes on"
        num_unfinished += beginning[-1] not in '.!?"'
        if said.request != beginning:
            num_asked += 1
            assert said.request in [form.format(beginning) for form in GO_ON]
    assert 100 < num_topics < 200
    assert 30 < num_unfinished < 100
    assert 10 < num_asked < 40


def test_a_story_that_cannot_be_cut_stands_alone() -> None:
    story = '"I am one sentence," said the mouse.'
    assert gone_on_with(story, random.Random(1)) == Exchange(None, story)


def test_who_is_in_a_hurry_leaves_out_capitals_and_marks() -> None:
    said = Exchange("Tell me about Ben!", "Ben was a boy.", "Ben")
    chance = random.Random(2)
    seen = {hastily(said, chance) for _ in range(100)}
    assert seen == {said, said._replace(request="tell me about ben")}
    alone = Exchange(None, "Ben was a boy.")
    assert {hastily(alone, chance) for _ in range(100)} == {alone}


@pytest.mark.parametrize(
    ("topic", "many"),
    [
        ("a dragon", "dragons"),
        ("an owl", "owls"),
        ("a fairy", "fairies"),
        ("a toy", "toys"),
        ("a box", "boxes"),
        ("a mouse", "mice"),
        ("a snowman", "snowmen"),
        ("an elf", "elves"),
        ("a scarecrow", "scarecrows"),
        ("a fish", "fish"),
        ("a dog who lost his ball", "a dog who lost his ball"),
        ("the river", "the river"),
        ("sharing", "sharing"),
    ],
)
def test_many_of_one_thing(topic: str, many: str) -> None:
    assert plural(topic) == many


def test_made_stories_and_talk_are_mixed_in_as_shares_say(text: ModelText) -> None:
    tokenizer = Tokenizer.from_file(str(builtin_folder() / "tokenizer.json"))
    mixture = Mixture([STORY] * 8, tokenizer, 2, FIRST_SHARES)
    before = decoded(mixture, tokenizer)
    real = before.count("loved to run in the park")
    assert 0.15 < real / (before.count(END_OF_TEXT) + before.count(USER)) < 0.7
    mixture.shares = replace(REAL_ONLY, talk=1.0)
    mixture.rows(1, 12_000)  # what was begun
    assert "loved to run in the park" not in decoded(mixture, tokenizer)


def decoded(mixture: Mixture, tokenizer: Tokenizer) -> str:
    tokens = mixture.rows(1, 12_000).tokens
    return tokenizer.decode(tokens[0].tolist(), skip_special_tokens=False)
