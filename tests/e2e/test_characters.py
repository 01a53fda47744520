"""Characters of several bytes and of several code points, cut wherever a limit cuts them, on every transport."""

import openai
import pytest

from tests.e2e.test_openai_package import GREEDY, joined, turn

pytestmark = pytest.mark.filterwarnings("ignore:connect.. must be used as a context manager:DeprecationWarning")
PROMPTS = {
    "emoji": "你好，我叫小明😀",
    "joined": "My family: 👩\u200d👩\u200d👧 and 🏳️\u200d🌈",
    "combining": "e\u0301 n\u0303 \u1100\u1161\u11a8 नमस्ते",
}
LIMITS = (1, 2, 3, 5, 8, 13, 21)


@pytest.mark.parametrize("prompt", PROMPTS)
def test_a_limit_cuts_no_character_and_every_transport_says_the_same(server_url, prompt):
    asked = {"input": PROMPTS[prompt], "extra_body": {"ignore_eos": True}}
    with (
        openai.OpenAI(base_url=f"{server_url}/v1", api_key="-", max_retries=0) as client,
        client.responses.connect() as socket,
    ):
        before = ""
        for limit in LIMITS:
            wanted = {**asked, "max_output_tokens": limit, **GREEDY}
            whole = client.responses.create(**wanted)
            streamed = list(client.responses.create(stream=True, **wanted))
            over_socket = turn(socket, input=PROMPTS[prompt], max_output_tokens=limit, ignore_eos=True)
            chat = client.chat.completions.create(
                messages=[{"role": "user", "content": PROMPTS[prompt]}],
                max_tokens=limit, extra_body={"ignore_eos": True}, **GREEDY,
            )  # fmt: skip
            text = whole.output_text
            assert text == joined(streamed) == joined(over_socket) == chat.choices[0].message.content
            assert streamed[-1].response.output_text == over_socket[-1].response.output_text == text
            assert not text.endswith("\N{REPLACEMENT CHARACTER}"), "what is cut off is left out"
            assert text.startswith(before), "a greedy answer that may be longer begins the same"
            before = text
            stored = client.responses.retrieve(whole.id)
            [item] = client.responses.input_items.list(whole.id).data
            assert (stored.output_text, item.content[0].text) == (text, PROMPTS[prompt])
