"""`evodraft chat`: turns, commands, interruptions, and the end of the context."""

from __future__ import annotations

import itertools

import pytest

from evodraft import LLM, SamplingParams
from evodraft.cli.chat import Conversation
from evodraft.display import printable


def _user(text: str) -> dict[str, str]:
    return {"role": "user", "content": text}


def _assistant(text: str) -> dict[str, str]:
    return {"role": "assistant", "content": text}


@pytest.fixture(scope="module")
def llm(model_folder: str) -> LLM:
    return LLM.from_pretrained(model_folder)


def test_every_piped_line_is_a_turn_and_history_is_kept(command, model_folder: str, llm: LLM) -> None:
    ended = command("chat", "-m", model_folder, "--max-new-tokens", "8", stdin=b"one\n\n two \n")
    first = llm.chat([_user("one")], max_new_tokens=8).text
    second = llm.chat([_user("one"), _assistant(first), _user("two")], max_new_tokens=8).text
    assert (ended.code, ended.out) == (0, f"{first}\n{second}\n")


def test_reset_forgets(command, model_folder: str, llm: LLM) -> None:
    ended = command("chat", "-m", model_folder, "--max-new-tokens", "8", stdin=b"one\n/reset\n/stats\none\n")
    first = llm.chat([_user("one")], max_new_tokens=8).text
    assert ended.out == f"{first}\n{first}\n"
    assert "a new conversation begins\nthere is no finished answer yet\n" in ended.err


def test_exit_ends(command, model_folder: str) -> None:
    ended = command("chat", "-m", model_folder, stdin=b"/exit\none\n")
    assert (ended.code, ended.out) == (0, "")


def test_stats_are_of_the_last_answer(command, model_folder: str, llm: LLM) -> None:
    ended = command("chat", "-m", model_folder, "--max-new-tokens", "8", stdin=b"one\n/stats\n")
    used = len(llm.chat_token_ids([_user("one")])) + 8
    [line] = [line for line in ended.err.splitlines() if "tokens/s" in line]
    assert line.startswith("8 tokens in ")
    assert line.endswith(f"; {used} of 256 tokens of context used")


def test_help_lists_commands_and_so_does_an_unknown_one(command, model_folder: str) -> None:
    ended = command("chat", "-m", model_folder, stdin=b"/help\n")
    assert all(name in ended.err for name in ("/exit", "/reset", "/stats", "/help", "Ctrl-C", "Ctrl-D"))
    unknown = command("chat", "-m", model_folder, stdin=b"/ext\n").err
    assert unknown == "unknown command /ext; a message that begins with / needs a space before it\n" + ended.err


def test_a_message_may_begin_with_a_slash(command, model_folder: str, llm: LLM) -> None:
    ended = command("chat", "-m", model_folder, "--max-new-tokens", "4", stdin=b" /etc\n")
    assert ended.out == llm.chat([_user("/etc")], max_new_tokens=4).text + "\n"


def test_a_cut_answer_says_what_lets_it_be_longer(command, model_folder: str) -> None:
    cut = command("chat", "-m", model_folder, "--max-new-tokens", "4", stdin=b"one\n")
    assert cut.one_line == "(cut after 4 tokens; --max-new-tokens raises the limit)"
    full = command("chat", "-m", model_folder, "--max-new-tokens", "400", stdin=b"one\n")
    assert full.one_line.startswith("(cut after 2")
    assert full.one_line.endswith("tokens; /reset begins a new conversation)")


def test_a_full_context_names_the_remedy(command, model_folder: str) -> None:
    long = "x" * 300
    ended = command("chat", "-m", model_folder, stdin=f"{long}\nhi\n".encode())
    message = "PromptError: the conversation has 306 tokens, and the context holds 256; type /reset to begin a new one"
    assert (ended.code, ended.out, ended.one_line) == (2, "", message)


def test_at_a_terminal_a_turn_that_fails_leaves_no_trace(command, model_folder: str, llm: LLM) -> None:
    ended = command("chat", "-m", model_folder, "--max-new-tokens", "4", typed=["x" * 300, "hi"])
    answer = llm.chat([_user("hi")], max_new_tokens=4).text
    assert ended.code == 0
    assert f"> {printable(answer)}\n" in ended.out
    assert "PromptError: the conversation has 306 tokens" in ended.err


def test_at_a_terminal_ctrl_c_clears_the_line_and_ctrl_d_ends(command, model_folder: str) -> None:
    ended = command("chat", "-m", model_folder, "--max-new-tokens", "4", typed=[KeyboardInterrupt, "/help"])
    assert (ended.code, ended.out) == (0, "> \n> > \n")
    assert ended.err.startswith("every line is a turn; /help lists commands\n")


def _interrupt(llm: LLM, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C within the fourth pass from now on."""
    score, num_passes = llm.engine.target.score, itertools.count(1)

    def interrupted(*args: object) -> object:
        if next(num_passes) == 4:
            raise KeyboardInterrupt
        return score(*args)

    monkeypatch.setattr(llm.engine.target, "score", interrupted)


def test_ctrl_c_stops_the_answer_and_not_the_conversation(
    model_folder: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    llm = LLM.from_pretrained(model_folder, drafter=None)
    conversation = Conversation(llm, SamplingParams(max_new_tokens=8), speculative=True, is_interactive=True)
    _interrupt(llm, monkeypatch)
    capsys.readouterr()
    conversation.hear("one")
    stopped = capsys.readouterr()
    assert stopped.err == " (stopped)\n"
    whole = llm.chat([_user("one")], max_new_tokens=8).text
    assert whole.startswith(stopped.out)
    assert 0 < len(stopped.out) < len(whole)
    conversation.hear("/stats")
    assert capsys.readouterr().err == "there is no finished answer yet\n"
    conversation.hear("two")
    history = [_user("one"), _assistant(stopped.out), _user("two")]
    assert capsys.readouterr().out == llm.chat(history, max_new_tokens=8).text + "\n"
    assert not llm.engine.has_work


def test_ctrl_c_ends_what_nobody_types(model_folder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    llm = LLM.from_pretrained(model_folder, drafter=None)
    _interrupt(llm, monkeypatch)
    with pytest.raises(KeyboardInterrupt):
        Conversation(llm, SamplingParams(), speculative=True, is_interactive=False).hear("one")


def test_without_a_chat_template_there_is_no_conversation(
    command, model_folder: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    load = LLM.from_pretrained

    def without_template(model: str, **options: object) -> LLM:
        llm = load(model, **options)
        llm.tokenizer.chat_template = None
        return llm

    monkeypatch.setattr(LLM, "from_pretrained", without_template)
    ended = command("chat", "-m", model_folder, stdin=b"hi\n")
    assert (ended.code, ended.out) == (2, "")
    assert ended.one_line.startswith("ConfigError: this tokenizer has no chat template")
