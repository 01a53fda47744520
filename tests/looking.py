"""What only a test asks of an engine: anything."""


class Look:
    """``engine.ask(Look(function))``: what the function says of the engine, between two steps."""

    def __init__(self, function):
        self.function = function

    def answer(self, engine, now):
        return self.function(engine)


async def look(host, function):
    """What a function says of the engine of a ``host``, between two steps."""
    return await host.ask(Look(function))
