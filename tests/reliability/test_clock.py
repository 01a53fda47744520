"""The clock on the wall jumps about while people talk: nothing ends early, nothing changes places."""

import asyncio
import random

from tests.serving import eventually

HOUR = 3_600_000
NOON = 1_700_000_000_000


async def test_a_wall_clock_that_jumps_an_hour_to_and_fro_changes_nothing(serve):
    rng = random.Random(1)

    def wall():
        return NOON + rng.choice([-HOUR, 0, 0, HOUR])

    async with serve(lambda prompt: str(prompt.count("user\n")), hub={"wall": wall}) as server:
        conversation = await server.conversation()
        for n in range(1, 13):
            told = await server.respond(f"m{n}", conversation=conversation, ignore_eos=False)
            assert (told["status"], told["output"][0]["content"][0]["text"]) == ("completed", str(n))
            assert all(figure is None or figure >= 0 for figure in told["chatpager"]["timings"].values())
        said = [item["content"][0]["text"] for item in await server.items(conversation, "order=asc&limit=100")]
        assert said == [text for n in range(1, 13) for text in (f"m{n}", str(n))]
        async with server.socket(query=f"?response_id={told['id']}") as socket:
            assert (await socket.rest())[-1]["response"] == told
        assert (await server.call("PUT", f"/v1/conversations/{conversation}/pin", {"ttl": 60})).status == 200
        again = await server.respond("and", conversation=conversation)
        assert again["usage"]["input_tokens_details"]["cached_tokens"] > 0


async def test_one_that_stands_still_does_no_harm(serve):
    async with serve(lambda prompt: "ok", hub={"wall": lambda: NOON}) as server:
        conversations = [await server.conversation() for _ in range(6)]
        told = await asyncio.gather(*(server.respond("a", conversation=c) for c in conversations))
        assert len({response["id"] for response in told}) == 6
        listed = []
        page = "/v1/conversations?limit=2"
        while page:
            found = (await server.get(page)).json
            listed += [row["id"] for row in found["data"]]
            page = found["has_more"] and f"/v1/conversations?limit=2&after={found['last_id']}"
        assert sorted(listed) == sorted(conversations)
        await eventually(lambda: not server.hub.turns)
