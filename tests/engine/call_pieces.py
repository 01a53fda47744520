"""What a parser of calls says, put together again: texts and calls in the order in which they came."""

from chatpager.engine.tool_calls import CallDelta, CallEnd, CallStart, FunctionCall


def read(parser, text, cuts=()):
    """What ``parser`` makes of ``text`` that comes in pieces."""
    found, start = [], 0
    for end in [*sorted(cuts), len(text)]:
        found += parser.push(text[start:end])
        start = end
    found += parser.finish()
    assert parser.finish() == [], "the end is told once"
    return together(found)


def together(pieces):
    order, is_open = [], False
    for piece in pieces:
        match piece:
            case str():
                assert piece and not is_open, "no piece is empty, and no text stands in a call"
                if order and isinstance(order[-1], str):
                    order[-1] += piece
                else:
                    order.append(piece)
            case CallStart():
                assert not is_open, "no call stands in another"
                order.append(FunctionCall(piece.name, ""))
                is_open = True
            case CallDelta():
                assert piece.arguments and is_open
                order[-1] = FunctionCall(order[-1].name, order[-1].arguments + piece.arguments)
            case CallEnd():
                assert is_open
                is_open = False
    assert not is_open, "every call ends"
    return order
