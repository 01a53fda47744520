"""What a program with openai 2.x does, run by its test with that package on the path: ``python THIS http://.../v1``."""

import sys

import openai

assert openai.__version__.startswith("2."), openai.__version__
GREEDY = {"model": "default", "temperature": 0.0}
MESSAGES = [{"role": "system", "content": "Be kind. " * 10}, {"role": "user", "content": "My name is Ada."}]

with openai.OpenAI(base_url=sys.argv[1], api_key="-", max_retries=0) as client:
    whole = client.chat.completions.create(messages=MESSAGES, **GREEDY)
    with_usage = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = client.chat.completions.create(messages=MESSAGES, **with_usage, **GREEDY)
    assert "".join(c.choices[0].delta.content or "" for c in chunks) == whole.choices[0].message.content != ""
    assert last.choices == []
    assert last.usage.prompt_tokens_details.cached_tokens >= (last.usage.prompt_tokens - 1) // 16 * 16 > 0

    first = client.responses.create(input="My name is Ada.", **GREEDY)
    second = client.responses.create(input="What is my name?", previous_response_id=first.id, **GREEDY)
    assert "Ada" in second.output_text
    *events, end = client.responses.create(input="My name is Ada.", stream=True, **GREEDY)
    assert "".join(e.delta for e in events if e.type == "response.output_text.delta") == end.response.output_text
    assert end.response.output_text == first.output_text
    assert [model.id for model in client.models.list()] == [first.model]
    try:
        client.responses.retrieve("resp_never")
    except openai.NotFoundError as error:
        refused = error.code
    assert refused == "response_not_found"

print("openai", openai.__version__, "is content")
