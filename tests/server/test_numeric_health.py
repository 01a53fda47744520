"""A server whose turns fail of what is no number, more than a few of them, tells whoever asks; and when it is over."""

from chatpager.server.numeric_health import MOST, SECONDS, NumericHealth


class End:
    def __init__(self, code=None):
        self.error_code = code


def test_more_than_three_in_a_minute_are_too_many_and_a_minute_later_they_are_forgotten():
    health = NumericHealth(lambda: health.now)
    for health.now in (0.0, 10.0, 20.0, 59.0):
        assert health.good
        health.turn_ended(End("engine_numeric_error"))
    assert not health.good
    health.now = SECONDS
    assert health.good
    health.turn_ended(End("engine_numeric_error"))
    assert not health.good, "four since 10.0"


def test_other_ends_do_not_count():
    health = NumericHealth(lambda: 0.0)
    for code in (None, "engine_failed", "engine_stopped") * MOST:
        health.turn_ended(End(code))
    assert health.good


async def test_a_load_balancer_hears_of_it_and_turns_still_begin(server):
    numbers = server.service.metrics.numbers
    numbers.clock = lambda: now
    now = 0.0
    for _ in range(MOST + 1):
        assert (await server.get("/health")).status == 200
        numbers.turn_ended(End("engine_numeric_error"))
    answer = await server.get("/health/ready")
    assert (answer.status, answer.json["status"]) == (503, "numeric_errors")
    assert (await server.get("/health/live")).status == 200
    assert (await server.respond("Hello"))["status"] == "incomplete"
    now = SECONDS
    assert (await server.get("/health/ready")).json["status"] == "ok"
