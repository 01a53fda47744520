"""What a reader that comes back asks for in its address: a number and an id, or a refusal.

``python tests/fuzz/fuzz_resume.py -runs=100000``
"""

import json

from yarl import URL

from chatpager.errors import InvalidRequest, ResponseNotFound
from chatpager.server.client_events import Resume
from chatpager.server.opening import opening
from chatpager.server.protocol import ResponsesProtocol
from chatpager.server.wire_events import ResumedFrame


def one_input(data: bytes) -> bool:
    """Whether something was asked for and understood; then the answer names the same id and number."""
    query = URL.build(path="/v1/responses", query_string=data.decode(errors="replace"), encoded=True).query
    try:
        asked = opening(query).resume
    except InvalidRequest:
        return False
    if asked is None:
        return False
    protocol = ResponsesProtocol(extended=True)
    protocol.resume(*asked)
    [event] = protocol.events_received()
    assert event == Resume(*asked)
    told = ResumedFrame(response_id=event.response_id, recovered=False, starting_after=event.after, status=None)
    protocol.resumed(told, event.lane)
    protocol.refused(ResponseNotFound("there is none"), event.lane)
    first, last = map(json.loads, protocol.frames_to_send())
    assert (first["response_id"], first["starting_after"]) == asked
    assert last["error"]["code"] == "response_not_found"
    return True


if __name__ == "__main__":
    from atheris_run import fuzz

    fuzz(one_input)
