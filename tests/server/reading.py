"""Bodies of requests, read."""

import pytest

from chatpager.errors import InvalidRequest
from chatpager.server.chat_requests import chat_request
from chatpager.server.requests import Served, response_request
from chatpager.store import NewMessage, text_content

SERVED = Served("tiny", {"temperature": 0.6, "top_k": 20}, 4096)


def respond(**body):
    return response_request(body, SERVED, "t")


def chat(**body):
    return chat_request({"messages": [{"role": "user", "content": "Hello"}], **body}, SERVED, "t")[0]


def refused(read, **body):
    with pytest.raises(InvalidRequest) as error:
        read(**body)
    return error.value.param


def message(role, text):
    return NewMessage(role=role, content=text_content(text))
