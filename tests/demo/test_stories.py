"""The longer answers."""

import re
from random import Random

import pytest

from chatpager.demo.stories import count, story
from chatpager.demo.talk import Talk


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_counting_goes_up_by_one_to_the_number_asked_for(lang):
    for seed in range(100):
        t = Talk(Random(seed), lang=lang)
        count(t)
        asked, answer = (m["content"] for m in t.messages)
        numbers = list(map(int, re.findall(r"\d+", answer)))
        assert numbers == list(range(numbers[0], numbers[-1] + 1))
        assert numbers[-1] == int(re.findall(r"\d+", asked)[-1]) <= 200


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_a_story_is_about_its_hero(lang):
    endings = {"en": "The end.", "zh": "故事讲完了。"}
    for seed in range(60):
        t = Talk(Random(seed), lang=lang)
        story(t)
        asked, answer = (m["content"] for m in t.messages)
        assert answer.endswith(endings[lang])
        if match := re.search(r"about (?:an? )?(.+?)(?:, please|[.?]|$)", asked):
            assert match[1].lower() in answer.lower()
