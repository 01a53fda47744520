"""What a program with anthropic 2.x does, run by its test with that package on the path: ``python THIS http://...``.

The server's model calls ``search`` when it is asked, and says what came of it.
"""

import sys

import anthropic

assert anthropic.__version__.startswith("2."), anthropic.__version__
TOOLS = [{"name": "search", "description": "Looks up.", "input_schema": {"type": "object", "properties": {}}}]
MARK = {"type": "ephemeral"}
SYSTEM = [{"type": "text", "text": "Be kind. " * 20, "cache_control": MARK}]
ASKED = {"model": "default", "max_tokens": 200, "system": SYSTEM, "tools": TOOLS}
QUESTION = {"role": "user", "content": "What is the weather like in Oslo?"}

with anthropic.Anthropic(base_url=sys.argv[1], api_key="-", max_retries=0) as client:
    counted = client.messages.count_tokens(model="default", system=SYSTEM, tools=TOOLS, messages=[QUESTION])
    whole = client.messages.create(messages=[QUESTION], **ASKED)
    assert whole.stop_reason == "tool_use" and whole._request_id.startswith("req_")
    assert whole.usage.cache_creation_input_tokens == counted.input_tokens and whole.usage.input_tokens == 0
    call = whole.content[-1]
    assert (call.type, call.name, call.input["query"]) == ("tool_use", "search", "weather in Oslo")

    with client.messages.stream(messages=[QUESTION], **ASKED) as stream:
        kinds = [event.type for event in stream]
        final = stream.get_final_message()
    assert final.usage.cache_read_input_tokens > 0

    def compared(message):
        fields = message.model_dump(exclude={"id", "usage", "chatpager"}, exclude_none=True)
        for block in fields["content"]:
            block.pop("id", None)
            block.pop("parsed_output", None)
        return fields

    assert compared(final) == compared(whole), (compared(final), compared(whole))
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"

    result = {"type": "tool_result", "tool_use_id": call.id, "content": "Rain."}
    talk = [QUESTION, {"role": "assistant", "content": whole.content}, {"role": "user", "content": [result]}]
    with client.messages.stream(messages=talk, **ASKED) as stream:
        told = "".join(stream.text_stream)
        last = stream.get_final_message()
    assert told == last.content[0].text == "It rains." and last.stop_reason == "end_turn"
    assert last.usage.cache_read_input_tokens >= counted.input_tokens + whole.usage.output_tokens - 1

    try:
        client.messages.create(messages=[QUESTION], **{**ASKED, "model": "never"})
    except anthropic.NotFoundError as error:
        refused = error.body["error"]["type"]
    assert refused == "not_found_error"

print("anthropic", anthropic.__version__, "is content")
