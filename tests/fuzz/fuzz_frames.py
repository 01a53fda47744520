"""The frames of a socket, one a line: each is answered by frames of JSON, whatever stands in it.

``python tests/fuzz/fuzz_frames.py -runs=100000``
"""

import json
from contextlib import suppress

from chatpager.errors import ChatpagerError, ConversationNotFound, ResponseNotFound
from chatpager.server.client_events import Cancel, Create, Draft, Resume
from chatpager.server.protocol import ResponsesProtocol
from chatpager.server.requests import Served, response_request
from chatpager.server.wire_events import ResumedFrame

SERVED = Served("tiny", {"temperature": 0.6}, 512)


def one_input(data: bytes) -> bool:
    """Whether all of it was understood."""
    protocol = ResponsesProtocol(extended=True)
    understood = True
    for text in data.decode(errors="replace").split("\n"):
        protocol.receive_text(text)
        for event in protocol.events_received():
            _act(protocol, event)
        frames = [json.loads(frame) for frame in protocol.frames_to_send()]
        understood = understood and not any(frame["type"] == "error" for frame in frames)
    return understood


def _act(protocol, event):
    """What the server does of its own, and what comes of it where nothing is stored. Others go on for ever."""
    match event:
        case Create(body, lane, key):
            try:
                request = response_request(body, SERVED, "t", key)
            except ChatpagerError as error:
                protocol.refused(error, lane)
                return
            if request.session_id:
                protocol.refused(ConversationNotFound("there is none"), lane)
        case Resume(response_id, after, lane):
            protocol.resumed(
                ResumedFrame(response_id=response_id, recovered=False, starting_after=after, status=None), lane
            )
            protocol.refused(ResponseNotFound("there is none"), lane)
        case Cancel(response_id, lane):
            protocol.not_cancelled(response_id, ResponseNotFound("there is none"), lane)
        case Draft(dict() as body):
            with suppress(ChatpagerError):
                response_request(body, SERVED, "t", draft=True)


if __name__ == "__main__":
    from atheris_run import fuzz

    fuzz(one_input)
