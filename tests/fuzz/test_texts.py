"""Any text, as a prompt, a question or a configuration: it is read as it stands, or one `UserError` says why not.

Whatever it holds, pages show it as text: no element, no attribute and no script comes out of it.
"""

from __future__ import annotations

import json
import math
import time
from html.parser import HTMLParser

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from tests.fuzz.tensors import examples, refused
from tests.lens.tiny_tokenizers import CHATML, with_chat
from tests.report.choices import choice
from tests.report.sample import odd
from tests.training.tiny_runs import tiny

from iclens import bundled
from iclens.cli.main import main
from iclens.explorer import page
from iclens.explorer.ask import Ask
from iclens.lens.prompt import Prompt, read_document, read_prompt
from iclens.report.gallery import Entry, render_entry, render_index
from iclens.sweeps.grid import expand
from iclens.training.config import RunConfig
from iclens.training.config_file import parse_value, read_config, toml_text

HOSTILE = [
    "<script>alert(1)</script>",
    "</script><script>alert(1)</script>",
    "<!--<script>",
    "</style><img src=x onerror=alert(1)>",
    "<svg/onload=alert(1)>",
    "\" onmouseover=\"alert(1)",
    "' onmouseover='alert(1)",
    "javascript:alert(1)",
    "<iframe srcdoc='<script>alert(1)</script>'>",
    "]]><b>",
    "&lt;script&gt;&#60;&amp;",
    "{{ 7*7 }}{% for x in y %}",
    "${7*7}`",
    "\u202eright to left\u202c",
    "עברית و العربية",
    "\x00\x01\x1b[31m\x7f\x85",
    "\ud800",
    "e\u0301\u0301\u0301 \u200b\ufeff",
    "👩‍👩‍👧‍👦🏳️‍🌈",
    "\u2028\u2029",
    "%s %n {0} {input} {{output}}",
    "../../etc/passwd",
    "=cmd|' /C calc'!A0",
    "a" * 5000,
]  # fmt: skip

texts = st.one_of(
    st.text(max_size=40),
    st.text(st.characters(codec=None), max_size=20),
    st.sampled_from(HOSTILE),
    st.lists(st.sampled_from([*HOSTILE, "\n\n", "\n", " ", "\r\n", "a", ":"]), max_size=8).map("".join),
)
plain = st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | texts
anything = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=12
)


# Prompts


@examples(60)
@given(text=texts, blocks=st.integers(-1, 4))
def test_a_text_is_a_prompt_or_refused(text, blocks):
    prompt = refused(lambda: Prompt.from_text(text, blocks))
    if prompt is None:
        return
    assert all(span.of(prompt.text) in text for span in (*prompt.demonstrations, prompt.query))
    shorter = prompt.without(range(len(prompt.demonstrations) - 1))
    assert [span.of(shorter.text) for span in shorter.demonstrations] == [prompt.demonstrations[-1].of(prompt.text)]


@examples(40)
@given(
    pairs=st.lists(st.tuples(texts, texts), max_size=4),
    query=texts,
    template=st.none() | texts | st.just("{input} → {output}"),
    instruction=st.none() | texts,
)
def test_pairs_are_a_prompt_or_refused(pairs, query, template, instruction):
    prompt = refused(lambda: Prompt.from_examples(pairs, query, template, instruction))
    if prompt is None:
        return
    assert len(prompt.demonstrations) == len(pairs)
    for span, (given_, output) in zip(prompt.demonstrations, pairs, strict=True):
        if template is None:
            assert span.of(prompt.text) == f"Input: {given_}\nOutput: {output}"


@examples(60)
@given(
    documents=st.lists(st.fixed_dictionaries({"text": texts | plain}, optional={"id": texts | plain, "x": plain}))
    | st.lists(texts, max_size=4)
    | anything,
    question=texts | plain,
    told=st.fixed_dictionaries(
        {},
        optional={
            "template": texts | st.just("<{id}> {text}\n\n{question}"),
            "instruction": texts,
            "as_chat": st.booleans() | plain,
            "split": st.sampled_from(["paragraphs", "lines", "messages"]) | plain,
            "score_instruction": st.booleans(),
        },
    ),
)
def test_documents_are_a_prompt_or_refused(documents, question, told):
    prompt = refused(lambda: read_document({"documents": documents, "question": question, **told}, with_chat(CHATML)))
    if prompt is None:
        return
    assert read_document(prompt.to_document(), with_chat(CHATML)) == prompt
    shorter = prompt.without(range(len(prompt.sources) - 1))
    assert [span.of(shorter.text) for span in shorter.sources] == [prompt.sources[-1].of(prompt.text)]
    assert shorter.query.of(shorter.text) == prompt.query.of(prompt.text)


@examples(60)
@given(
    text=texts,
    told=st.fixed_dictionaries(
        {"split": st.sampled_from(["paragraphs", "lines"])},
        optional={"query": texts, "separator": texts, "instruction_blocks": st.integers(0, 3), "instruction": texts},
    ),
)
def test_the_pieces_of_a_text_are_a_prompt_or_refused(text, told):
    prompt = refused(lambda: read_document({"text": text, **told}))
    if prompt is None:
        return
    assert read_document(prompt.to_document()) == prompt
    shorter = prompt.without(range(len(prompt.sources)))
    assert shorter.query.of(shorter.text) == prompt.query.of(prompt.text)


@examples(60)
@given(
    content=st.binary(max_size=60)
    | anything.map(lambda value: json.dumps(value).encode())
    | st.lists(anything, max_size=4).map(lambda values: "\n".join(map(json.dumps, values)).encode())
    | st.lists(st.fixed_dictionaries({"input": texts}, optional={"output": texts, "role": texts}), max_size=4).map(
        lambda rows: json.dumps(rows).encode()
    )
    | st.lists(
        st.fixed_dictionaries({"role": st.sampled_from(["user", "assistant", "system", "x"]), "content": plain})
    ).map(lambda rows: json.dumps(rows).encode()),
    name=st.sampled_from(["p.txt", "p.json", "p.jsonl"]),
    query=st.none() | texts,
)
def test_a_file_is_a_prompt_or_refused(content, name, query, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    found = refused(lambda: read_prompt(path, with_chat(CHATML), query=query))
    assert found is None or found.text.endswith(found.query.of(found.text))


@examples(60)
@given(
    document=anything
    | st.fixed_dictionaries(
        {},
        optional={
            "text": texts | plain,
            "demonstrations": st.lists(texts | st.fixed_dictionaries({"input": texts, "output": texts}), max_size=3),
            "query": texts,
            "answers": st.lists(texts, max_size=3) | plain,
            "off": st.lists(st.integers(-1, 3) | plain, max_size=3),
            "layer": plain,
            "template": texts,
        },
    )
)
def test_a_question_is_read_or_refused(document):
    found = refused(lambda: Ask.read(document))
    assert found is None or found.prompt.demonstrations


@pytest.mark.parametrize("name", ["p.txt", "p.jsonl"])
def test_a_prompt_of_100_000_tokens_is_one_error_at_once(name, tmp_path, capsys):
    pairs = 20_000
    if name == "p.txt":
        content = "cat is vux .\n\n" * pairs + "dog is"
    else:
        rows = [{"input": "cat", "output": "vux"}] * pairs + [{"input": "dog"}]
        content = "\n".join(map(json.dumps, rows))
    (tmp_path / name).write_text(content)
    # One more time, so that imports are not counted.
    assert main(["explain", "--prompt", str(bundled.path() / "prompt.txt"), "--next-tokens", "1"]) == 0
    capsys.readouterr()
    start = time.process_time()
    assert main(["explain", "--prompt", str(tmp_path / name)]) == 2
    assert time.process_time() - start < 20
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error:")
    assert "tokens" in line


# Configurations


@examples(60)
@given(
    content=st.binary(max_size=60) | texts.map(lambda text: text.encode("utf-8", "surrogatepass")),
    name=st.sampled_from(["c.toml", "c.json"]),
)
def test_a_file_is_a_configuration_or_refused(content, name, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / name
    path.write_bytes(content)
    found = refused(lambda: read_config(path))
    assert found is None or refused(lambda: RunConfig.from_dict(found)) is not object


TABLES = {table: names for table, names in tiny().to_dict().items() if isinstance(names, dict)}
FIELDS = [(None, "seed"), *((table, name) for table, names in TABLES.items() for name in names)]


@examples(80)
@given(place=st.sampled_from(FIELDS), value=anything, extra=st.none() | texts)
@example(place=("training", "steps"), value=math.inf, extra=None)
@example(place=("model", "width"), value=2**70, extra=None)
def test_a_value_anywhere_is_taken_or_refused(place, value, extra):
    table, name = place
    data = json.loads(json.dumps(tiny().to_dict(), default=dict))
    (data if table is None else data[table])[name if extra is None else name + extra] = value
    config = refused(lambda: RunConfig.from_dict(data))
    if config is None:
        return
    again = RunConfig.from_dict(json.loads(json.dumps(config.to_dict(), default=dict)))
    assert again.key() == config.key()


@examples(40)
@given(
    table=st.dictionaries(
        st.sampled_from(["seed", "training.learning_rate", "model.width", "model.x", "task", "together", ""]) | texts,
        st.lists(plain, max_size=3)
        | st.fixed_dictionaries({"range": plain | st.sampled_from([3, 10**6, 10**15])})
        | st.fixed_dictionaries({"start": plain, "stop": plain, "step": plain})
        | st.lists(
            st.dictionaries(st.sampled_from(["seed", "model.width"]), st.lists(plain, max_size=2), max_size=2),
            max_size=2,
        )
        | anything,
        max_size=2,
    )
    | anything
)
@example(table={"seed": {"range": 10**15}})
@example(table={"training.learning_rate": {"start": 0.0, "stop": 1.0, "step": 1e-300}})
def test_a_sweep_is_expanded_or_refused_at_once(table):
    data = json.loads(json.dumps(tiny().to_dict(), default=dict))
    if isinstance(table, dict) and any(
        isinstance(value, dict) and value.get("range") == 10**6 for value in table.values()
    ):
        return  # allowed, and takes a while
    start = time.process_time()
    refused(lambda: expand({**data, "sweep": table}))
    assert time.process_time() - start < 10


@examples(60)
@given(text=texts)
def test_an_override_is_a_value(text):
    value = parse_value(text)
    if isinstance(value, str) and text.isprintable() and value:
        assert value in text


@examples(30)
@given(
    data=st.dictionaries(
        texts.filter(lambda text: "\ud800" not in text and text.isprintable() and text),
        st.integers() | st.booleans() | st.text(max_size=10),
        max_size=3,
    )
)
def test_what_is_written_as_toml_is_read_back(data, tmp_path_factory):
    path = tmp_path_factory.getbasetemp() / "written.toml"
    try:
        path.write_text(toml_text(data), encoding="utf-8")
    except UnicodeEncodeError:
        return
    assert read_config(path) == data


# Pages


class Elements(HTMLParser):
    """The elements of a page with the names of their attributes, and its visible text."""

    def __init__(self, content):
        super().__init__(convert_charrefs=True)
        self.found, self.text = set(), []
        self.feed(content)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.found |= {tag, *(f"{tag} {name}" for name, _ in attributes)}
        for name, value in attributes:
            assert not name.startswith("on"), (tag, name)
            assert not (name in ("href", "src", "action") and (value or "").strip().lower().startswith("javascript:"))

    def handle_data(self, data):
        self.text.append(data)


def page_of_gallery(text):
    entry = Entry(
        id="dice",
        title=text,
        reference=text,
        description=text,
        preset="quick",
        verdicts=[
            {
                "outcome": "holds", "claim": text, "numbers": text, "test": text, "condition": text, "untested": "",
                "source": text, "trust": "stated",
            }
        ],
        settings=[{"name": text, "value": text, "origin": "stated", "note": text}],
        command=text,
        seconds=1.0,
        finished="2026-01-01T00:00:00+00:00",
        machine={text: text},
        n_rows=1,
        picture=True,
    )  # fmt: skip
    return render_entry(entry) + render_index([entry], "0.1")


def saved_page(text):
    return page.saved({"mode": "saved", "text": text, text: [text, {"a": text}]})


def page_of_choice(text):
    return choice(text=text).to_html()


def can_be_encoded(text):
    return not any("\ud800" <= character <= "\udfff" for character in text)


PAGES = {
    "gallery": page_of_gallery,
    "saved": saved_page,
    "choice": page_of_choice,
    "notebook": lambda text: odd(text)._repr_html_(),
}


@pytest.mark.parametrize("name", PAGES)
def test_no_text_becomes_an_element_of_a_page(name):
    render = PAGES[name]
    expected = Elements(render("plain words")).found

    # What the gallery and an explanation show was refused at the entry where it held half of a surrogate pair.
    shown = texts if name == "saved" else texts.filter(can_be_encoded)

    @examples(15)
    @given(text=shown)
    def check(text):
        content = refused(lambda: render(text))
        if content is None:
            return
        assert Elements(content).found <= expected
        # Whatever the text: what a browser is sent can be encoded.
        content.encode("utf-8")

    for text in HOSTILE:
        if can_be_encoded(text) or name == "saved":
            assert Elements(render(text)).found <= expected, text
    check()


@pytest.mark.slow
@pytest.mark.parametrize("text", [text for text in HOSTILE if text.strip() and can_be_encoded(text)])
def test_no_prompt_becomes_an_element_of_the_page_of_an_explanation(text, tmp_path):
    pages = []
    for content in ("word", text):
        (tmp_path / "p.jsonl").write_text(
            "\n".join(json.dumps(row) for row in [{"input": content[:80], "output": "vux"}] * 2 + [{"input": "dog"}])
        )
        arguments = ["--prompt", str(tmp_path / "p.jsonl"), "--template", "{input} is {output}"]
        assert main(["explain", *arguments, "--html", str(tmp_path / "p.html")]) == 0
        pages.append(Elements((tmp_path / "p.html").read_text()).found)
    assert pages[1] <= pages[0]
