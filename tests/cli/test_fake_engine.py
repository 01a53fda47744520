"""``--engine fake``: everything but the model, and nobody takes it for one."""

from tests.processes import serving

FAKE = ("--engine", "fake", "--num-kv-blocks", "1024")


def test_outside_test_mode_it_is_refused(chatpager):
    done = chatpager("demo", *FAKE)
    assert done.code == 2
    assert "engine = 'fake' (from --engine)" in done.err and "it needs --test-mode" in done.err


def test_it_answers_at_once_the_same_again_and_says_what_it_is(fork_server, home):
    with serving(fork_server, home, *FAKE, "--test-mode") as server:
        first, second = (server.post("/v1/responses", {"input": "Hello", "max_output_tokens": 40}) for _ in range(2))
        text = first["output"][0]["content"][0]["text"]
        assert text == second["output"][0]["content"][0]["text"]
        assert first["usage"]["output_tokens"] == 40 and text.replace(" ", "").isalpha()
        assert second["usage"]["input_tokens_details"]["cached_tokens"] > 0
        assert server.get("/health")["engine"] == "fake"
        assert "NO MODEL ANSWERS" in server.process.out.text
        assert "engine.fake" in server.process.out.text + server.process.err.text


def test_a_model_does_not_say_that_it_is_one(server):
    assert "engine" not in server.get("/health")
