"""The language-model client against a local server that misbehaves in every way."""

from __future__ import annotations

import json
import logging
import socket
from collections.abc import Callable
from pathlib import Path

import pytest
from llm_stub import Reply, Script, always, stub

from crossproof.clusters.builtin_judges import LLMJudge
from crossproof.clusters.judges import Question
from crossproof.clusters.llm import AGAIN, LLM, LONGEST_PAUSE, Endpoint
from crossproof.clusters.prompts import (
    LLMPrompt,
    judge_prompt,
    read_choice,
    read_decisions,
    read_explanation,
)
from crossproof.errors import CrossproofError

pytest.importorskip("openai")
KEY = "sk-very-secret-1234"
PROMPT = LLMPrompt("Say a letter.", "Which?", 16)


@pytest.fixture
def ask(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., LLM]:
    """A client whose waits are written down instead of waited for."""
    monkeypatch.setenv("OPENAI_API_KEY", KEY)

    def build(url: str, **options: object) -> LLM:
        waits: list[float] = []
        settings = {"requests_per_minute": 1e9, "timeout": 5.0, "parallel": 1} | options
        llm = LLM(Endpoint("stub", url, **settings), tmp_path / "answers", waits.append)
        llm.waits = waits
        return llm

    return build


def test_answers_come_in_order_and_are_asked_once(ask: Callable[..., LLM]) -> None:
    prompts = [LLMPrompt("s", letter, 16) for letter in "ABCAB"]

    def echo(_number: int, body: dict) -> Reply:
        return Reply(f"Answer: {body['messages'][1]['content']}")

    with stub(echo) as server:
        llm = ask(server.url, parallel=3)
        assert llm.ask(prompts, read_choice) == [0, 1, 2, 0, 1]
        assert len(server.requests) == 3
        assert llm.spent == {"prompt": 21, "answer": 9, "requests": 3}
        assert ask(server.url).ask(prompts, read_choice) == [0, 1, 2, 0, 1]  # from disk
        assert len(server.requests) == 3
        body = server.requests[0]
        assert (body["model"], body["temperature"], body["max_tokens"]) == ("stub", 0, 16)
        assert server.keys[0] == f"Bearer {KEY}"


def test_refusals_for_the_rate_wait_as_long_as_the_server_says(ask: Callable[..., LLM]) -> None:
    def script(number: int, _body: dict) -> Reply:
        waits = {0: "3", 1: "7.5", 2: "100000", 3: "soon"}
        if number in waits:
            return Reply("slow down", 429, {"Retry-After": waits[number]})
        return Reply("B")

    with stub(script) as server:
        llm = ask(server.url)
        assert llm.ask([PROMPT], read_choice) == [1]
        assert llm.waits == [3.0, 7.5, LONGEST_PAUSE, 4.0]


@pytest.mark.parametrize("status", [500, 502, 503])
def test_errors_of_the_server_are_tried_again_with_growing_pauses(
    ask: Callable[..., LLM], status: int
) -> None:
    with stub(lambda number, _: Reply("broken", status) if number < 3 else Reply("C")) as server:
        llm = ask(server.url)
        assert llm.ask([PROMPT], read_choice) == [2]
        assert llm.waits == [0.5, 1.0, 2.0]


def test_a_request_that_hangs_is_given_up_and_tried_again(ask: Callable[..., LLM]) -> None:
    with stub(lambda number, _: Reply("D", hang=30.0 if number == 0 else 0)) as server:
        llm = ask(server.url, timeout=0.3)
        assert llm.ask([PROMPT], read_choice) == [3]
        assert len(server.requests) == 2


def test_an_endpoint_that_keeps_failing_is_named(ask: Callable[..., LLM]) -> None:
    with stub(lambda *_: Reply("broken", 503)) as server:
        llm = ask(server.url, retries=2)
        with pytest.raises(
            CrossproofError, match=r"127.0.0.1:\d+/v1 .*keeps failing.*after 3 tries"
        ):
            llm.ask([PROMPT], read_choice)
        assert len(server.requests) == 3


def test_an_unreachable_endpoint_is_named(ask: Callable[..., LLM]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://user:password@127.0.0.1:{free.getsockname()[1]}/v1"
    llm = ask(url, retries=1)
    with pytest.raises(
        CrossproofError, match=r"cannot be reached.*answers so far are kept"
    ) as error:
        llm.ask([PROMPT], read_choice)
    assert "password" not in str(error.value)


@pytest.mark.parametrize(
    ("status", "hint"),
    [(401, "OPENAI_API_KEY"), (403, "may not"), (404, "--llm-model"), (400, "check")],
)
def test_refusals_are_not_repeated_and_do_not_show_the_key(
    ask: Callable[..., LLM], status: int, hint: str
) -> None:
    with stub(lambda *_: Reply(f"no use: key {KEY}", status)) as server:
        with pytest.raises(CrossproofError, match=f"{status}.*{hint}") as error:
            ask(server.url).ask([PROMPT], read_choice)
        assert len(server.requests) == 1
        assert KEY not in str(error.value)
        assert error.value.__cause__ is None


def test_a_used_up_quota_is_not_waited_for(ask: Callable[..., LLM]) -> None:
    body = json.dumps({"error": {"message": "quota", "code": "insufficient_quota"}}).encode()
    with stub(lambda *_: Reply(status=429, body=body)) as server:
        with pytest.raises(CrossproofError, match="quota is used up"):
            ask(server.url).ask([PROMPT], read_choice)
        assert len(server.requests) == 1


MALFORMED: dict[str, Script] = {
    "not the form": always("I think A or B"),
    "empty": always(""),
    "no content": lambda *_: Reply(body=b'{"choices": []}'),
    "nothing": lambda *_: Reply(body=b"{}"),
    "a list": lambda *_: Reply(body=b"[1]"),
    "not JSON": lambda *_: Reply(body=b"{oh"),
    "a page": lambda *_: Reply(body=b"<html></html>", headers={"Content-Type": "text/html"}),
    "null": lambda *_: Reply(body=b'{"choices": [{"message": {"content": null}}]}'),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_answers_that_cannot_be_read_are_asked_for_once_more(
    ask: Callable[..., LLM], kind: str, tmp_path: Path
) -> None:
    with stub(MALFORMED[kind]) as server:
        llm = ask(server.url)
        assert llm.ask([PROMPT], read_choice) == [None]
        assert len(server.requests) == 2
        assert server.requests[1]["messages"][1]["content"].endswith(AGAIN)
        assert not list(tmp_path.rglob("*.json"))


def test_a_second_answer_in_the_right_form_counts(ask: Callable[..., LLM]) -> None:
    with stub(always("perhaps", "Answer: E")) as server:
        assert ask(server.url).ask([PROMPT], read_choice) == [4]
        assert ask(server.url).ask([PROMPT], read_choice) == [4]
        assert len(server.requests) == 2


def test_what_was_answered_before_a_failure_is_kept(ask: Callable[..., LLM]) -> None:
    prompts = [LLMPrompt("s", str(i), 16) for i in range(4)]
    with stub(lambda number, _: Reply("A") if number < 2 else Reply("no", 401)) as server:
        with pytest.raises(CrossproofError, match="401"):
            ask(server.url).ask(prompts, read_choice)
        cost = ask(server.url).cost(prompts)
        assert (cost.requests, cost.cached) == (2, 2)
        server.script = always("B")
        before = len(server.requests)
        assert ask(server.url).ask(prompts, read_choice) == [0, 0, 1, 1]
        assert len(server.requests) == before + 2


def test_a_damaged_answer_file_is_asked_for_again(ask: Callable[..., LLM], tmp_path: Path) -> None:
    with stub(always("A")) as server:
        llm = ask(server.url)
        llm.ask([PROMPT], read_choice)
        (path,) = (tmp_path / "answers").iterdir()
        for damage in ("{", "[]", '{"answer": 3}', '{"answer": "Z"}'):
            path.write_text(damage)
            assert ask(server.url).ask([PROMPT], read_choice) == [0]
        assert len(server.requests) == 5


def test_other_models_prompts_and_addresses_have_other_files(ask: Callable[..., LLM]) -> None:
    llm = ask("http://127.0.0.1:1/v1")
    other = ask("http://127.0.0.1:2/v1")
    keys = {llm.key(PROMPT), other.key(PROMPT), llm.key(LLMPrompt("Say a letter.", "What?", 16))}
    keys.add(LLM(Endpoint("b", "http://127.0.0.1:1/v1"), llm.answers).key(PROMPT))
    assert len(keys) == 4
    assert llm.key(PROMPT) == ask("http://127.0.0.1:1/v1").key(PROMPT)


def test_the_key_is_nowhere_on_disk_or_in_logs(
    ask: Callable[..., LLM], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.DEBUG), stub(always("A")) as server:
        llm = ask(server.url)
        llm.ask([PROMPT], read_choice)
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert files
    assert not any(KEY.encode() in path.read_bytes() for path in files)
    assert KEY not in caplog.text
    assert KEY not in repr(llm)


def test_requests_keep_to_the_rate(ask: Callable[..., LLM]) -> None:
    with stub(always("A")) as server:
        llm = ask(server.url, requests_per_minute=6.0)
        llm.ask([LLMPrompt("s", str(i), 16) for i in range(4)], read_choice)
    # Nobody sleeps here, so the clock hardly moves: each request waits 10 s more than the last.
    assert llm.waits == pytest.approx([10.0, 20.0, 30.0], abs=3.0)


def test_costs_count_what_is_not_on_disk(ask: Callable[..., LLM]) -> None:
    prompts = [LLMPrompt("x" * 40, "y" * 360, 50), LLMPrompt("x" * 40, "z" * 760, 50)]
    with stub(always("A")) as server:
        llm = ask(server.url, price_in=2.0, price_out=10.0)
        cost = llm.cost([*prompts, prompts[0]])
        assert (cost.requests, cost.cached, cost.prompt_tokens, cost.answer_tokens) == (
            2,
            0,
            300,
            100,
        )
        assert cost.price == pytest.approx((300 * 2 + 100 * 10) / 1e6)
        llm.ask(prompts[:1], read_choice)
        assert (llm.cost(prompts).requests, llm.cost(prompts).cached) == (1, 1)
    assert ask(server.url).cost(prompts).price is None


def test_no_model_and_no_package_are_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(CrossproofError, match="--llm-model"):
        LLM(Endpoint(), tmp_path)
    monkeypatch.setitem(__import__("sys").modules, "openai", None)
    with pytest.raises(CrossproofError, match=r"pip install 'crossproof\[llm\]'"):
        LLM(Endpoint("stub"), tmp_path)


@pytest.mark.parametrize("option", ["timeout", "rate", "retries"])
def test_a_pace_that_never_asks_is_refused(option: str) -> None:
    name = {"rate": "requests_per_minute"}.get(option, option)
    never = -1 if option == "retries" else -1.0
    with pytest.raises(CrossproofError, match=f"--llm-{option} is -1"):
        LLM(Endpoint("stub", **{name: never}))


def test_the_judge_reads_letters(ask: Callable[..., LLM]) -> None:
    asked = Question((("on “dog”",),), tuple((f"option {i}",) for i in range(5)))
    with stub(always("Answer: C")) as server:
        assert LLMJudge(ask(server.url)).choose([asked, asked]) == [2, 2]
        text = server.requests[0]["messages"][1]["content"]
        assert "Candidate E:\n  option 4" in text
        assert "Member 1:\n  on “dog”" in text


@pytest.mark.parametrize(
    ("answer", "choice"),
    [
        ("A", 0),
        ("Answer: B", 1),
        ("It is not A. Answer: (E).", 4),
        ("Answer: A or B", None),
        ("Answer: F", None),
        ("none", None),
        ("", None),
    ],
)
def test_choices_are_single_letters(answer: str, choice: int | None) -> None:
    assert read_choice(answer) == choice


@pytest.mark.parametrize(
    ("answer", "decisions"),
    [
        ("Answer: 1, 0,1", [True, False, True]),
        ("[0,0,0]", [False, False, False]),
        ("1, 0", None),
        ("1, 0, 2", None),
        ("yes, no, no", None),
        ("", None),
    ],
)
def test_decisions_are_as_many_as_asked(answer: str, decisions: list[bool] | None) -> None:
    assert read_decisions(answer, 3) == decisions


def test_explanations_are_one_line() -> None:
    assert read_explanation('Explanation: "names of dogs"\nbecause') == "names of dogs"
    assert read_explanation("names") == "names"
    assert read_explanation("Explanation:  ") is None
    assert read_explanation("x" * 301) is None


def test_every_option_has_a_letter() -> None:
    prompt = judge_prompt([["m"]], [[str(i)] for i in range(5)])
    assert [f"Candidate {c}:" in prompt.user for c in "ABCDEF"] == [True] * 5 + [False]
