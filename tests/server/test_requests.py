"""What clients send: read into a turn, or refused by the field's name."""

import json
from contextlib import suppress

import pytest

from chatpager.errors import InvalidJSON, InvalidRequest, ModelNotFound
from chatpager.server import reading
from chatpager.server.chat_requests import chat_request
from chatpager.server.reading import HARMLESS, decode
from chatpager.server.requests import check_metadata, response_request
from tests.server.reading import SERVED, chat, message, refused, respond

BIG = 2**31 - 1


def test_a_response_with_its_defaults():
    turn = respond(input="Hello")
    assert turn.id.startswith("resp_") and len(turn.id) == 37
    assert (turn.tenant, turn.kind, turn.model, turn.stored, turn.whole) == ("t", "response", "tiny", True, False)
    assert (turn.session_id, turn.previous_turn_id, turn.instructions, turn.priority) == (None, None, None, 0)
    assert turn.messages == [message("user", "Hello")]
    assert (turn.params.temperature, turn.params.top_k, turn.params.max_tokens) == (0.6, 20, None)
    assert turn.parameters == {
        "instructions": None, "metadata": {}, "temperature": 0.6, "top_p": 1.0,
        "max_output_tokens": None, "store": True,
    }  # fmt: skip


def test_a_response_with_everything():
    turn = respond(
        model="tiny", input="Hello", instructions="Be brief.", conversation={"id": "conv_1"}, max_output_tokens=7,
        metadata={"a": "b"}, store=True, stream=True, temperature=0, top_p=0.5, seed=3, stop="x", top_k=5, min_p=0.1,
        presence_penalty=1, frequency_penalty=-1, repetition_penalty=1.5, logit_bias={"5": 2}, min_tokens=1,
        ignore_eos=True, chatpager={"priority": -3},
    )  # fmt: skip
    p = turn.params
    assert (turn.session_id, turn.instructions, turn.priority) == ("conv_1", "Be brief.", -3)
    assert (p.temperature, p.top_p, p.seed, p.stop, p.top_k, p.min_p) == (0, 0.5, 3, ("x",), 5, 0.1)
    assert (p.presence_penalty, p.frequency_penalty, p.repetition_penalty) == (1, -1, 1.5)
    assert (p.logit_bias, p.max_tokens, p.min_tokens, p.ignore_eos) == ({5: 2.0}, 7, 1, True)
    assert turn.parameters["metadata"] == {"a": "b"}


@pytest.mark.parametrize("model", [None, "", "default", "tiny"])
def test_names_of_the_model(model):
    assert respond(model=model, input="a").model == "tiny"
    assert chat(model=model).model == "tiny"


@pytest.mark.parametrize("read", [respond, chat])
def test_another_model_is_not_found(read):
    with pytest.raises(ModelNotFound) as error:
        read(model="x" * 10_000, input="a")
    assert error.value.param == "model" and len(error.value.message) < 200


@pytest.mark.parametrize("conversation", ["conv_1", {"id": "conv_1"}, {"id": "conv_1", "object": "conversation"}])
def test_a_conversation_may_go_on_without_input(conversation):
    assert respond(conversation=conversation).session_id == "conv_1"
    assert respond(conversation=conversation, input=[]).messages == []


def test_a_previous_response_is_followed():
    assert respond(previous_response_id="resp_1", input="a").previous_turn_id == "resp_1"


def test_a_response_that_is_not_stored():
    turn = respond(input="a", store=False)
    assert turn.stored is False and turn.parameters["store"] is False


def test_chat_is_the_whole_conversation():
    turn, body = chat_request(
        {
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}],
            "stream": True,
            "stream_options": {"include_usage": True},
        },
        SERVED,
        "t",
    )
    assert turn.id.startswith("chatcmpl_")
    assert (turn.kind, turn.whole, turn.stored) == ("chat", True, True)
    assert turn.messages == [message("system", "Be brief."), message("user", "Hello")]
    assert body.stream and body.stream_options.include_usage
    assert chat(store=False).stored is False


def test_the_limit_of_a_chat_has_two_names():
    assert chat(max_tokens=5).params.max_tokens == 5
    assert chat(max_completion_tokens=6).params.max_tokens == 6
    assert chat(max_tokens=5, max_completion_tokens=6).params.max_tokens == 6
    assert refused(chat, max_tokens=0) == "max_tokens"
    assert refused(chat, max_completion_tokens=0) == "max_completion_tokens"


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "input"),
        ({"input": None}, "input"),
        ({"input": []}, "input"),
        ({"input": "a\0b"}, "input"),
        ({"conversation": "c", "previous_response_id": "r", "input": "a"}, "conversation"),
        ({"conversation": {}, "input": "a"}, "conversation"),
        ({"conversation": {"id": 3}, "input": "a"}, "conversation"),
        ({"conversation": "c\0", "input": "a"}, "conversation"),
        ({"previous_response_id": "r\0", "input": "a"}, "previous_response_id"),
        ({"conversation": "c", "input": "a", "store": False}, "store"),
        ({"instructions": "a\0b", "input": "a"}, "instructions"),
    ],
)
def test_responses_that_make_no_sense(body, param):
    assert refused(respond, **body) == param


def test_a_chat_without_messages():
    assert refused(chat, messages=[]) == "messages"
    with pytest.raises(InvalidRequest, match="messages: this field is required") as error:
        chat_request({}, SERVED, "t")
    assert error.value.param == "messages"


# -- types, ranges, and what is not built -----------------------------------------------------------------------------

WRONG_TYPES = {
    "model": 3, "temperature": "hot", "top_p": [], "seed": 1.5, "stop": 3, "presence_penalty": "a",
    "frequency_penalty": {}, "logit_bias": [], "top_k": "a", "min_p": "a", "repetition_penalty": "a",
    "min_tokens": 1.5, "ignore_eos": 1, "tools": "a", "tool_choice": 3, "parallel_tool_calls": 1,
    "metadata": "a", "store": "yes", "stream": 1, "chatpager": 3,
}  # fmt: skip
OUT_OF_RANGE = {
    "temperature": -1, "top_p": 0, "seed": 2**64, "stop": 17 * ["a"], "presence_penalty": 3, "frequency_penalty": -3,
    "top_k": 2**31, "min_p": 2, "repetition_penalty": 0, "min_tokens": -1, "logit_bias": {"1": 101},
    "metadata": {str(i): "" for i in range(17)},
}  # fmt: skip


@pytest.mark.parametrize("field", WRONG_TYPES)
def test_a_wrong_type_is_named(field):
    assert refused(respond, input="a", **{field: WRONG_TYPES[field]}) == field
    assert refused(chat, **{field: WRONG_TYPES[field]}) == field


@pytest.mark.parametrize("field", OUT_OF_RANGE)
def test_a_wrong_value_is_named(field):
    assert refused(respond, input="a", **{field: OUT_OF_RANGE[field]}) == field
    assert refused(chat, **{field: OUT_OF_RANGE[field]}) == field


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({"input": 3}, "input"),
        ({"input": ["a"]}, "input[0]"),
        ({"instructions": 3}, "instructions"),
        ({"conversation": 3}, "conversation"),
        ({"previous_response_id": 3}, "previous_response_id"),
        ({"max_output_tokens": "a"}, "max_output_tokens"),
        ({"max_output_tokens": 0}, "max_output_tokens"),
        ({"max_output_tokens": 10**30}, "max_output_tokens"),
        ({"max_output_tokens": True}, "max_output_tokens"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"stop": ["a", 3]}, "stop[1]"),
        ({"chatpager": {"unheard_of": 1}}, "chatpager"),
        ({"chatpager": {"explain": 1}}, "chatpager.explain"),
        ({"chatpager": {"on_disconnect": "wait"}}, "chatpager.on_disconnect"),
        ({"chatpager": {"on_disconnect": "continue"}, "store": False}, "chatpager.on_disconnect"),
        ({"chatpager": {"pin": {}}}, "chatpager.pin"),
        ({"chatpager": {"pin": {"ttl": 0}}}, "chatpager.pin.ttl"),
        ({"chatpager": {"pin": {"ttl": 60, "scope": "all"}}}, "chatpager.pin.scope"),
        ({"chatpager": {"session_title": ""}}, "chatpager.session_title"),
        ({"chatpager": {"session_title": "a\0"}}, "chatpager.session_title"),
        ({"include": ["bogus"]}, "include[0]"),
        ({"include": ["message.output_text.logprobs", 3]}, "include[1]"),
        ({"max_tool_calls": -1}, "max_tool_calls"),
        ({"max_tool_calls": 0}, "max_tool_calls"),
        ({"stream": True, "stream_options": {"include_usage": True}}, "stream_options"),
        ({"stream": True, "stream_options": 3}, "stream_options"),
        ({"background": "yes"}, "background"),
        ({"background": True, "store": False}, "background"),
        ({"background": True, "chatpager": {"on_disconnect": "cancel"}}, "chatpager.on_disconnect"),
        ({"truncation": "left"}, "truncation"),
        ({"chatpager": {"priority": "high"}}, "chatpager.priority"),
        ({"chatpager": {"priority": 10**30}}, "chatpager.priority"),
    ],
)
def test_wrong_fields_of_a_response(body, param):
    assert refused(respond, **{"input": "a", **body}) == param


@pytest.mark.parametrize(
    ("body", "param"),
    [({"messages": "a"}, "messages"), ({"messages": [3]}, "messages[0]"), ({"max_tokens": "a"}, "max_tokens")],
)
def test_wrong_fields_of_a_chat(body, param):
    assert refused(chat, **body) == param


def test_the_largest_numbers_that_are_taken():
    turn = respond(input="a", max_output_tokens=4096, top_k=BIG, seed=2**64 - 1, chatpager={"priority": BIG})
    assert (turn.params.max_tokens, turn.params.top_k, turn.priority) == (4096, BIG, BIG)


UNBUILT = {
    "functions": [{"name": "f"}],
    "stream_id": "lane", "n": 2, "prompt": {"id": "pmpt"}, "audio": {"voice": "x"},
    "modalities": ["audio"], "context_management": [{}], "moderation": {"model": "x"}, "cache_salt": "x",
    "guided_json": {"type": "object"}, "guided_regex": "a", "guided_choice": ["a"], "guided_grammar": "x",
    "structured_outputs": {"choice": ["a"]},
}  # fmt: skip


@pytest.mark.parametrize("field", UNBUILT)
def test_a_feature_that_is_not_built_is_refused_by_its_name(field):
    assert refused(respond, input="a", **{field: UNBUILT[field]}) == field
    if field != "n":
        assert refused(chat, **{field: UNBUILT[field]}) == field


def test_a_chat_is_refused_what_only_a_response_can():
    assert refused(chat, background=True) == "background"
    assert refused(chat, truncation="auto") == "truncation"


def test_a_wish_that_comes_to_nothing_is_told():
    [told] = respond(input="a", reasoning={"effort": "low", "summary": None}).parameters["warnings"]
    assert told.startswith("reasoning: ")
    [told] = chat(reasoning_effort="low").parameters["warnings"]
    assert told.startswith("reasoning_effort: ")
    [told] = respond(input="a", truncation="auto").parameters["warnings"]
    assert told.startswith("truncation: ")
    for turn in (respond(input="a", chatpager={"session_title": "A story"}), chat(chatpager={"session_title": "A"})):
        [told] = turn.parameters["warnings"]
        assert told.startswith("chatpager.session_title ") and turn.title is None
    [told] = chat(max_tokens=3, max_completion_tokens=4).parameters["warnings"]
    assert told.startswith("max_tokens: ")
    [told] = respond(input="a", chatpager={"instructions": "tail"}).parameters["warnings"]
    assert told.startswith("chatpager.instructions: ")
    pin = {"ttl": 60, "scope": "session"}
    [told] = respond(input="a", chatpager={"pin": pin}).parameters["warnings"]
    assert told.startswith("chatpager.pin.scope ")
    assert "warnings" not in respond(input="a", conversation="c", chatpager={"pin": pin}).parameters
    [told] = respond(input="a", store=False, chatpager={"pin": {"ttl": 60}}).parameters["warnings"]
    assert "not pinned" in told


def test_what_has_no_effect_is_echoed():
    asked = {"user": "u", "safety_identifier": "s", "prompt_cache_key": "k", "max_tool_calls": 3}
    assert [told.partition(":")[0] for told in respond(input="a", **asked).parameters["warnings"]] == ["max_tool_calls"]
    assert asked.items() <= respond(input="a", **asked).parameters.items()


ASKS_FOR_NOTHING = {
    "tools": [[], None], "functions": [None], "background": [False, None],
    "stream_id": [None, ""], "n": [1, None], "logprobs": [False, None], "top_logprobs": [None], "prompt": [None],
    "truncation": ["disabled", None],
    "text": [None, {}, {"format": None}, {"format": {"type": "text"}}, {"verbosity": "medium"}],
    "response_format": [None, {"type": "text"}], "audio": [None], "modalities": [["text"], None],
    "context_management": [None], "moderation": [None], "cache_salt": [None, ""],
    "reasoning": [None, {}, {"effort": None}], "reasoning_effort": [None],
    "include": [None, [], [
        "file_search_call.results", "web_search_call.results", "web_search_call.action.sources",
        "message.input_image.image_url", "computer_call_output.output.image_url", "code_interpreter_call.outputs",
        "reasoning.encrypted_content",
    ]],
}  # fmt: skip


@pytest.mark.parametrize("field", ASKS_FOR_NOTHING)
def test_a_field_that_asks_for_nothing_is_taken_without_a_word(field):
    for value in ASKS_FOR_NOTHING[field]:
        assert "warnings" not in respond(input="a", **{field: value}).parameters
        assert "warnings" not in chat(**{field: value}).parameters


VALUES = {dict: {"a": 1}, list: ["a"], str: "x", int: 3, bool: True}


@pytest.mark.parametrize("field", sorted(HARMLESS.keys() - {"reasoning", "reasoning_effort", "service_tier"}))
def test_harmless_fields_are_taken_without_a_word(field):
    for value in (None, *(VALUES[kind] for kind in HARMLESS[field])):
        assert "warnings" not in respond(input="a", **{field: value}).parameters
        assert "warnings" not in chat(**{field: value}).parameters


@pytest.mark.parametrize(
    ("field", "value", "param"),
    [
        ("prompt_cache_options", {"ttl": "1w"}, "prompt_cache_options.ttl"),
        ("prompt_cache_options", {"prewarm": "yes"}, "prompt_cache_options.prewarm"),
        ("prompt_cache_options", 3, "prompt_cache_options"),
        ("prompt_cache_retention", "forever", "prompt_cache_retention"),
        ("cache_control", {"type": "lasting"}, "cache_control.type"),
        ("cache_control", {}, "cache_control"),
    ],
)
def test_a_wish_to_keep_the_prefix_has_a_form(field, value, param):
    assert refused(respond, input="a", **{field: value}) == param
    assert refused(chat, **{field: value}) == param


def test_a_prompt_can_be_computed_without_an_answer():
    assert respond(input="a", generate=True).generate
    prewarm = {"prewarm": True}
    for turn in (
        respond(input="a", generate=False),
        respond(input="a", generate=True, prompt_cache_options=prewarm),
        chat(prompt_cache_options=prewarm, n=3),
        chat(generate=False),
    ):
        assert (turn.generate, turn.params.max_tokens, turn.params.n) == (False, 1, 1)
        assert turn.parameters["generate"] is False
        assert "n" not in turn.parameters


def test_what_chat_completions_cannot_tell_is_refused_there():
    options = {"comparison_response_id": "resp_1"}
    assert respond(input="a", prompt_cache_options=options).compare_with == "resp_1"
    assert refused(chat, prompt_cache_options=options) == "prompt_cache_options.comparison_response_id"


@pytest.mark.parametrize("mark", ["ephemeral", {"type": "other"}, {"type": "ephemeral", "ttl": "2h"}, {}])
def test_a_mark_on_a_message_or_a_part_has_a_form(mark):
    part = {"type": "text", "text": "a", "cache_control": mark}
    assert (
        refused(chat, messages=[{"role": "user", "content": "a", "cache_control": mark}]) == "messages[0].cache_control"
    )
    place = "input[1].content[0].cache_control"
    assert refused(respond, input=[{"role": "user", "content": "b"}, {"role": "user", "content": [part]}]) == place


@pytest.mark.parametrize("field", sorted({*HARMLESS, *UNBUILT}))
def test_fields_without_an_effect_have_types_too(field):
    types = HARMLESS[field] if field in HARMLESS else reading.UNBUILT[field][0]
    for kind in VALUES.keys() - set(types):
        assert refused(respond, input="a", **{field: VALUES[kind]}) == field
        assert refused(chat, **{field: VALUES[kind]}) == field


def test_unknown_fields_are_passed_over_and_named():
    warnings = ["unknown field 'beta' was passed over", "unknown field 'temprature' was passed over"]
    assert respond(input="a", temprature=1, beta=[[]]).parameters["warnings"] == warnings
    assert chat(temprature=1, beta=[[]]).parameters["warnings"] == warnings


def test_unknown_fields_inside_of_others_are_named_too():
    part = {"type": "text", "text": "a", "colour": "red", "annotations": []}
    said = {"role": "user", "content": [part, part], "name": "Ada", "audio": None}
    for read, name, more in ((chat, "messages", []), (respond, "input", ["text.foo", "text.format.bar"])):
        asked = {"text": {"foo": 1, "format": {"type": "text", "bar": 1}}} if more else {}
        told = read(**{name: [said, said]}, **asked).parameters["warnings"]
        paths = [f"{name}[0].content[0].colour", f"{name}[0].name", *more]
        assert told == [f"unknown field {path!r} was passed over" for path in paths]


def test_the_warnings_stay_small_whatever_is_sent():
    many = respond(input="a", **{"x" * 1000 + str(i): 1 for i in range(1000)}).parameters["warnings"]
    assert len(json.dumps(many)) < 4000


# -- metadata and JSON ------------------------------------------------------------------------------------------------


def test_metadata_within_its_limits():
    assert check_metadata(None) == {}
    full = {f"{i:064}": "v" * 512 for i in range(16)}
    assert check_metadata(full) == full
    for pair in ({"a\0": "b"}, {"a": "b\0"}):
        with pytest.raises(InvalidRequest, match="metadata: holds a NUL character"):
            check_metadata(pair)


@pytest.mark.parametrize(
    "metadata", [{"a": 1}, {"k" * 65: ""}, {"a": "v" * 513}, {"a": "\0"}, {"\0": "a"}, {"a": None}]
)
def test_metadata_beyond_them(metadata):
    assert refused(respond, input="a", metadata=metadata) == "metadata"


@pytest.mark.parametrize(
    "data", [b"", b"{", b"[]", b"3", b"null", b'{"a": NaN}', b'{"a": Infinity}', b'{"a": "\xff"}',
             b'{"a": "\\ud800"}', b'{"a": ' + b"[" * 10**4, b"\xef\xbb\xbf{}"],
)  # fmt: skip
def test_what_is_no_json_object(data):
    with pytest.raises(InvalidJSON):
        decode(data)


def test_what_is_nested_as_deep_as_can_be_read():
    """What can be read cannot always be written again: that is refused, too."""
    for depth in range(700, 1100):
        with suppress(InvalidJSON):
            raw = decode('{"input": "a", "unknown": ' + "[" * depth + "]" * depth + "}")
            response_request(raw, SERVED, "t", "key")


@pytest.mark.parametrize("kind", [str, str.encode])
def test_a_number_that_cannot_be_read_is_called_that(kind):
    long = "1" * 5000
    for raw, param in (
        (f'{{"input": "a", "seed": {long}}}', "seed"),
        (f'{{"a": [{{"b": {long}}}]}}', "a"),
        ('{"a": 1e999}', "a"),
        (long, None),
    ):
        with pytest.raises(InvalidRequest, match="a number is out of range") as refused:
            decode(kind(raw))
        assert refused.value.param == param


HALVES = [r"\ud800", r"\udc00", r"\uD800x", r"\ud800\ud800", r"\udc00\ud800", r"\\\ud83d and more", r"\ud83d\n"]


@pytest.mark.parametrize("text", HALVES)
@pytest.mark.parametrize("kind", [str, str.encode])
def test_half_of_a_surrogate_pair_is_called_that(text, kind):
    for raw in (f'{{"input": "{text}"}}', f'{{"{text}": 1}}'):
        with pytest.raises(InvalidJSON, match=r"half of a surrogate pair"):
            decode(kind(raw))


@pytest.mark.parametrize(
    "data", [r'{"a": "\ud83d\ude00"', r'{"a": "\\ud800"', r"\ud800", '{"a": NaN}', b'{"a": "\xff"}']
)
def test_anything_else_is_not(data):
    with pytest.raises(InvalidJSON, match="this is not JSON"):
        decode(data)


def test_what_is():
    assert decode(b'{"a": "\\ud83d\\ude00"}') == decode('{"a": "\N{GRINNING FACE}"}') == {"a": "\N{GRINNING FACE}"}
