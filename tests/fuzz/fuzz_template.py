"""A body, the prompt that the template makes of its messages, and what is stored of them. The first line says which
wire it came on.

``python tests/fuzz/fuzz_template.py -runs=100000``
"""

import asyncio
import atexit
from functools import cache

import msgspec

from chatpager.demo import model_path
from chatpager.engine.tokenizer import Tokenizer
from chatpager.errors import RequestError
from chatpager.server.chat_requests import chat_request
from chatpager.server.completion_requests import completion_requests
from chatpager.server.message_requests import count_request, message_request
from chatpager.server.reading import decode
from chatpager.server.requests import Served, response_request
from chatpager.sessions.prompting import Prompting
from chatpager.store.chain import canonical, content_name, root

SERVED = Served("tiny", {"temperature": 0.6}, 512)
LIMIT = 2048
WIRES = {
    b"response": lambda raw: [response_request(raw, SERVED, "t")],
    b"chat": lambda raw: [chat_request(raw, SERVED, "t")[0]],
    b"message": lambda raw: [message_request(raw, SERVED, "t")[0]],
    b"count": lambda raw: [count_request(raw, SERVED, "t")],
    b"completion": lambda raw: completion_requests(raw, SERVED, "t")[0],
}


@cache
def prompting() -> Prompting:
    made = Prompting(Tokenizer(model_path()))
    made.limit = LIMIT
    return made


@cache
def loop() -> asyncio.AbstractEventLoop:
    made = asyncio.new_event_loop()
    atexit.register(made.close)
    return made


def one_input(data: bytes) -> bool:
    """Whether a prompt came of it."""
    wire, _, body = data.partition(b"\n")
    try:
        requests = WIRES.get(wire, WIRES[b"response"])(decode(body))
        for request in requests:
            question = (
                prompting().question("t", request.messages, request.around)
                if request.messages
                else prompting().bare("t", request.prompt or "")
            )
            assert loop().run_until_complete(question).prompt.token_ids
            assert msgspec.json.decode(msgspec.json.encode(request.parameters)) == request.parameters
            for message in request.messages:
                content_name(root("t"), message.role, canonical(message.content))
    except RequestError:
        return False
    return True


if __name__ == "__main__":
    from atheris_run import fuzz

    fuzz(one_input)
