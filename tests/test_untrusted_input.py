"""Prompts and names from users: what they say is never logged, and never opened as a file.

How hostile files of models and heads are dealt with is tested in `unit/runtime/test_load.py` and
`unit/drafters/eagle/test_files.py`.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from typing import Any, Final

import pytest

from evodraft import LLM, AsyncLLM
from evodraft.errors import ConfigError, EvodraftError, UnknownOptionError, UnsupportedModelError, WeightsError
from evodraft.testing.pairs import tiny_pair

SECRET: Final = "my passphrase is kumquat"
SECRET_ID: Final = 2**40 + 4711  # a token id that shows up nowhere else
CHAT: Final = "{% for message in messages %}{{ 'says: ' + message['content'] }}{% endfor %}"
QUOTING: Final = "{{ raise_exception('cannot say ' + messages[0]['content']) }}"
ANSWER: Final[dict[str, Any]] = {"max_new_tokens": 4, "ignore_eos": True}


def llm_with(template: str = CHAT) -> LLM:
    pair = tiny_pair("llama")
    pair.tokenizer.chat_template = template
    draft = {"name": "model", "model": pair.draft}
    return LLM.from_pretrained((pair.target, pair.tokenizer), drafter=draft, max_model_len=128)


def message(content: object) -> list[dict[str, Any]]:
    return [{"role": "user", "content": content}]


# --- nothing of a prompt is logged --------------------------------------------------------------------------------


@pytest.fixture
def said(capfd: pytest.CaptureFixture[str]) -> Iterator[Callable[[], str]]:
    """Everything that any logger at any level, any warning and any print says during a test."""
    records: list[str] = []

    class Listener(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            records.append(self.format(record))

    listener = Listener()
    named = [logging.getLogger(name) for name in list(logging.root.manager.loggerDict)]
    heard = [logging.root, *(logger for logger in named if not logger.propagate)]
    before = {logger: (logger.level, logger.disabled) for logger in (logging.root, *named)}
    for logger in before:
        logger.setLevel(logging.DEBUG)
        logger.disabled = False
    for logger in heard:
        logger.addHandler(listener)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        yield lambda: "\n".join([*records, *map(str, warned), *capfd.readouterr()])
    for logger in heard:
        logger.removeHandler(listener)
    for logger, (level, disabled) in before.items():
        logger.setLevel(level)
        logger.disabled = disabled


def test_the_listener_hears_everything(said: Callable[[], str]) -> None:
    logging.getLogger("evodraft.engine").debug("one %s", "apple")
    logging.getLogger("transformers.generation").debug("two pears")
    logging.getLogger("asyncio").debug("three plums")
    warnings.warn("four cherries", stacklevel=1)
    sys.stderr.write("five quinces")
    heard = said()
    assert all(fruit in heard for fruit in ("apple", "pears", "plums", "cherries", "quinces"))


async def _ask_async(llm: LLM) -> None:
    async with AsyncLLM(llm) as asking:
        await asyncio.gather(asking.generate(SECRET, **ANSWER), asking.chat(message(SECRET), **ANSWER))
        assert [piece async for piece in asking.stream(SECRET, **ANSWER)]


def test_generating_says_nothing(said: Callable[[], str]) -> None:
    llm = llm_with()
    out = llm.generate(SECRET, stop=["kumquat"], logprobs=2, seed=1, **ANSWER)
    assert llm.tokenizer is not None
    assert llm.tokenizer.decode(out.prompt_token_ids) == SECRET, "the prompt did pass through"
    llm.generate([SECRET, "", SECRET * 100], temperature=1.0, n=2, **ANSWER)
    llm.generate(prompt_token_ids=[list(out.prompt_token_ids)], speculative=False, **ANSWER)
    llm.chat(message(SECRET), **ANSWER)
    list(llm.stream(SECRET, **ANSWER))
    asyncio.run(_ask_async(llm), debug=True)
    heard = said()
    assert SECRET not in heard
    assert "kumquat" not in heard


def _failing(*_: object) -> None:
    raise ValueError("a processor of the caller failed")


FAULTS: Final[dict[str, Callable[[LLM], object]]] = {
    "too long": lambda llm: llm.generate(SECRET * 100, **ANSWER),
    "no room for the answer": lambda llm: llm.generate(SECRET, max_new_tokens=1000),
    "half a character": lambda llm: llm.generate(SECRET + "\ud800", **ANSWER),
    "half a character in a chat": lambda llm: llm.chat(message(SECRET + "\ud800"), **ANSWER),
    "bytes": lambda llm: llm.generate(SECRET.encode(), **ANSWER),
    "bytes in a list": lambda llm: llm.generate([SECRET.encode()], **ANSWER),
    "a prompt in the place of parameters": lambda llm: llm.generate("hello", SECRET, **ANSWER),
    "text in the place of ids": lambda llm: llm.generate(prompt_token_ids=[SECRET], **ANSWER),
    "text among ids": lambda llm: llm.generate(prompt_token_ids=[[1, SECRET]], **ANSWER),
    "a fraction among ids": lambda llm: llm.generate(prompt_token_ids=[[SECRET_ID, 0.5]], **ANSWER),
    "two ways at once": lambda llm: llm.generate(SECRET, prompt_token_ids=[[SECRET_ID]], **ANSWER),
    "a list to stream": lambda llm: list(llm.stream([SECRET], **ANSWER)),
    "several samples to stream": lambda llm: list(llm.stream(SECRET, n=2, **ANSWER)),
    "too long to stream": lambda llm: list(llm.stream(SECRET * 100, **ANSWER)),
    "a chat that is text": lambda llm: llm.chat(SECRET, **ANSWER),
    "a chat that is a list of text": lambda llm: llm.chat([SECRET], **ANSWER),
    "a chat without content": lambda llm: llm.chat([{"role": SECRET}], **ANSWER),
    "a chat with other content": lambda llm: llm.chat(message({SECRET: 1}), **ANSWER),
    "a processor that raises": lambda llm: llm.generate(SECRET, logits_processor=[_failing], **ANSWER),
    "an unknown option": lambda llm: llm.generate(SECRET, top_kk=3),
}


@pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS)
@pytest.mark.parametrize("template", [CHAT, QUOTING], ids=["plain", "quoting"])
def test_errors_say_nothing_of_the_prompt(fault: Callable[[LLM], object], template: str) -> None:
    """Neither the message nor what it was raised from: a traceback is what ends up in a log."""
    with pytest.raises(EvodraftError) as raised:
        fault(llm_with(template))
    shown = "".join(traceback.format_exception(raised.value))
    assert str(raised.value) in shown
    assert "kumquat" not in shown
    assert str(SECRET_ID) not in shown


# --- names do not become paths ------------------------------------------------------------------------------------

_OPENS_NOTHING: Final = """
import sys
from dataclasses import replace
from evodraft import LLM
from evodraft.engine import Engine
from evodraft.errors import EvodraftError
from evodraft.testing.pairs import tiny_pair

pair = tiny_pair("llama")
pair.tokenizer.chat_template = "{% for message in messages %}{{ message['content'] }}{% endfor %}"
target = (pair.target, pair.tokenizer)
llm = LLM.from_pretrained(target, drafter={"name": "model", "model": pair.draft}, max_model_len=128)


def use(name):
    llm.generate([name, "/dev/null"], temperature=1.0, stop=[name], n=2, max_new_tokens=4)
    llm.chat([{"role": name, "content": name}], max_new_tokens=4)
    list(llm.stream(name, seed=1, max_new_tokens=4))
    [job] = llm.submit(name, max_new_tokens=4)
    llm.engine.cancel(job.session)
    session = llm.engine.submit(replace(job.request, request_id=name))
    while not session.is_finished:
        llm.engine.step()
    for part in ("drafter", "controller", "verifier", "numerics", "dtype", "device"):
        for spelling in (name, f"fixed:{name}", f"ngram:{name}"):
            try:
                LLM.from_pretrained(target, **{part: spelling})
            except EvodraftError:
                continue
            raise SystemExit(f"{part}={spelling} was taken")


use("a word")  # what is imported late is imported now
events, is_armed = [], False
WATCHED = {"open", "os.listdir", "os.scandir", "os.mkdir", "os.rename", "os.remove", "socket.connect"}


def note(event, arguments):
    if is_armed and event in WATCHED:
        events.append((event, *map(str, arguments)))


sys.addaudithook(note)
is_armed = True
for name in ("../../../../etc/passwd", "/etc/passwd", "~/.ssh/id_rsa"):
    use(name)
assert events == [], events
open("/dev/null").close()
assert len(events) == 1, "the hook hears"
"""


def test_serving_opens_no_file() -> None:
    """Whatever prompts, roles, stop strings, request ids and names of parts say. In a process of its own: an audit
    hook cannot be removed.
    """
    done = subprocess.run([sys.executable, "-c", _OPENS_NOTHING], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("name", ["../../etc", "/etc", "owner/../../etc", "..", "./x", "~nobody/model", "a/b/../c"])
def test_a_path_that_holds_no_model_is_refused_as_a_path(name: str) -> None:
    with pytest.raises(WeightsError, match=r"does not exist; check the path|has no config\.json"):
        LLM.from_pretrained(name)


@pytest.mark.parametrize("name", ["owner/..", "owner/mo\0del", "owner/model?x=1", "http:model", "owner//"])
def test_a_name_that_is_no_hub_id_is_refused(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked the network"))
    with pytest.raises((UnsupportedModelError, WeightsError)):
        LLM.from_pretrained(name)


@pytest.mark.parametrize("part", ["drafter", "controller", "verifier"])
@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "fixed/../auto"])
def test_a_part_is_looked_up_in_its_table_only(part: str, name: str) -> None:
    with pytest.raises(UnknownOptionError, match=f"unknown {part} '{name}'"):
        LLM.from_pretrained("demo", **{part: name})


def test_the_argument_of_a_part_is_no_path_unless_it_names_a_model() -> None:
    for part in ({"controller": "fixed:/etc/passwd"}, {"drafter": "ngram:/etc/passwd"}):
        with pytest.raises(ConfigError, match=r"needs .* not '/etc/passwd'"):
            LLM.from_pretrained("demo", **part)
    with pytest.raises(WeightsError, match="the folder /no/such/draft does not exist"):
        LLM.from_pretrained("demo", drafter="model:/no/such/draft", device="cpu")
