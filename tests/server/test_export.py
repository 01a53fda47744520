"""Conversations that are looked for and taken away."""

import pytest

from chatpager.server import wire
from chatpager.server.markdown import as_markdown


async def found(server, words):
    answer = await server.get("/v1/conversations", params={"search": words})
    assert answer.status == 200, answer.body
    return [one["id"] for one in answer.json["data"]]


async def test_conversations_are_found_by_title_and_by_what_was_said(serve):
    async with serve(lambda prompt: "The 100% answer is Zürich") as server:
        accented = await server.conversation(items=[{"role": "user", "content": "Ärger in ÖSTERREICH, Привет"}])
        for words in ("Ärger", "ÖSTERREICH", "Привет", "in ÖSTERREICH"):
            assert await found(server, words) == [accented]
        assert (await server.delete(f"/v1/conversations/{accented}")).status == 200
        one, two, three = [await server.conversation(metadata={"title": t}) for t in ("Tea", "Rain", "text")]
        await server.respond('Where is "home"?', conversation=one, max_output_tokens=64)
        await server.respond("Something else", conversation=two, max_output_tokens=64)
        assert await found(server, "rain") == [two]
        assert await found(server, '"HOME"') == [one]
        assert sorted(await found(server, "100% Answer is Zürich")) == sorted([one, two])
        assert await found(server, "text") == [three], "what messages are made of is not what was said"
        assert await found(server, "%") == await found(server, "100% answer")
        assert await found(server, "nowhere") == []
        assert len(await found(server, "")) == 3


async def test_a_fork_is_found_too_and_what_was_left_is_not(server):
    conversation = await server.conversation()
    first = await server.respond("About tea", conversation=conversation)
    fork = (await server.post(f"/v1/conversations/{conversation}/fork")).json["id"]
    await server.respond("About rain", conversation=fork)
    assert sorted(await found(server, "about tea")) == sorted([conversation, fork])
    assert await found(server, "about rain") == [fork]
    await server.post(f"/v1/conversations/{fork}/rewind", {"to": first["id"]})
    assert await found(server, "about rain") == []


async def test_pages_of_what_was_found(server):
    made = [await server.conversation(metadata={"title": f"Tea {n}"}) for n in range(3)]
    first = (await server.get("/v1/conversations?search=tea&limit=2")).json
    rest = (await server.get(f"/v1/conversations?search=tea&limit=2&after={first['last_id']}")).json
    assert (first["has_more"], rest["has_more"]) == (True, False)
    assert sorted(one["id"] for one in first["data"] + rest["data"]) == sorted(made)


async def test_an_export_can_be_read_in_again(server):
    conversation = await server.conversation(metadata={"title": "Tea"})
    told = await server.respond("Hello", conversation=conversation)
    answer = await server.get(f"/v1/conversations/{conversation}/export")
    assert answer.headers["content-disposition"] == f'attachment; filename="{conversation}.json"'
    assert answer.json["items"] == await server.items(conversation)
    again = await server.conversation(items=answer.json["items"], metadata=answer.json["conversation"]["metadata"])
    assert [item["content"] for item in await server.items(again)] == [item["content"] for item in answer.json["items"]]
    assert told["output"][0]["content"] == (await server.items(again))[-1]["content"]


async def test_an_export_for_people(serve):
    async with serve(lambda prompt: "- a list") as server:
        conversation = await server.conversation(metadata={"title": "Tea"})
        await server.respond("Hello", conversation=conversation)
        answer = await server.get(f"/v1/conversations/{conversation}/export?format=md")
        assert answer.headers["content-type"] == "text/markdown; charset=utf-8"
        assert answer.body.decode() == "# Tea\n\n## User\n\nHello\n\n## Assistant\n\n- a list\n"
        refused = await server.get(f"/v1/conversations/{conversation}/export?format=pdf")
        assert refused.refusal == (400, "invalid_request", "format")


@pytest.mark.parametrize(("output", "fence"), [("plain", "```"), ("a ``` b", "````"), ("``````", "```````")])
def test_what_a_tool_gave_stays_in_its_fence(output, fence):
    call = wire.FunctionCallItem(id="fc_1", status="completed", call_id="1", name="look\nup", arguments="{}")
    given = wire.FunctionOutputItem(id="fco_1", status="completed", call_id="1", output=output)
    assert as_markdown("", [call, given]) == (
        f"# Conversation\n\n## Assistant calls look up\n\n```\n{{}}\n```\n\n## Tool\n\n{fence}\n{output}\n{fence}\n"
    )
