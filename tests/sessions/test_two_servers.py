"""Two servers share one PostgreSQL: a conversation goes on at either, and has one writer."""

import pytest

from chatpager.errors import SessionBusy
from chatpager.sessions.answers import Delta
from chatpager.sessions.heads import owner_of
from chatpager.store import ownership
from tests.looking import look
from tests.serving_client import eventually
from tests.sessions.conftest import TENANT

pytestmark = pytest.mark.postgres


@pytest.fixture
def database(postgres_url):
    return postgres_url


async def stopped_for_too_long(rig):
    """As the others see it: its lease has passed, and it does not know."""
    database = rig.hub.store._database
    database._claim._renewing.cancel()
    async with database.write("test") as c:
        await ownership.renew(c, database.owner, -1)


async def test_one_that_is_taken_for_dead_tells_nothing_more_and_the_client_goes_on_at_the_other(rig):
    def say(prompt):
        return "a b c d e f g h"

    async with rig(say, share=True) as one, rig(say, share=True) as other:
        session = await one.session()
        for server in (one, other, one):
            assert (await server.ask("hi", session=session))[1].status == "completed"
        gate = one.hold(after=3)
        turn = await one.hub.submit(one.request("go on", session=session))
        async for event in turn.stream.follow():
            if isinstance(event, Delta):
                break
        with pytest.raises(SessionBusy):
            await other.ask("and you?", session=session)
        assert (await other.hub.store.turn(TENANT, turn.id)).status == "in_progress"
        await stopped_for_too_long(one)
        assert (await other.ask("and you?", session=session))[1].status == "completed"
        gate.open()
        ended = await turn.stream.end()
        assert (ended.status, ended.error_code) == ("failed", "turn_taken")
        assert "go on there" in ended.error_message
        stored = (await other.texts(session))[-4:]
        assert stored == [
            ("user", "go on", "completed"), ("assistant", turn.stream.text, "interrupted"),
            ("user", "and you?", "completed"), ("assistant", say(""), "completed"),
        ]  # fmt: skip
        assert turn.stream.text == ended.text != say("")
        epoch = (await other.hub.store.session(TENANT, session)).owner_epoch
        assert (await one.ask("again", session=session))[1].status == "completed"
        assert (await other.hub.store.session(TENANT, session)).owner_epoch == epoch + 1 == 5


async def test_of_what_is_deleted_at_one_while_the_other_answers_no_engine_has_anything(rig):
    """The other's turn may have begun in an engine that both have behind the deletion. The conversation of a turn that
    is deleted by itself goes on."""

    def say(prompt):
        return "a b c d e f g h"

    async with rig(say, share=True) as one, rig(say, share=True) as other:
        first, second = await one.session(), await one.session("conv_2")
        await one.ask("hi", session=first)
        deleting, store = other.hub.deleting, other.hub.store
        for session, delete, status, left in (
            (first, lambda turn: deleting.turn(TENANT, turn.id), "cancelled", [owner_of(TENANT, first)]),
            (first, lambda turn: deleting.session(TENANT, first, lambda: None), "cancelled", []),
            (second, lambda turn: store.delete_session(TENANT, second), "completed", []),  # halfway
        ):
            gate = one.hold(after=3)
            turn = await one.hub.submit(one.request("go on", session=session))
            await eventually(lambda turn=turn: turn.token_ids)
            await delete(turn)
            gate.open()
            assert (await turn.stream.end()).status == status
            assert await look(one.hub.engine, lambda engine: list(engine.leases.heads)) == left
