"""Every sentence of docs/security.md."""

from __future__ import annotations

import ast
import importlib.util
import json
import pickle
import re
import shutil
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient
from tests.fuzz.test_texts import page_of_choice, page_of_gallery, saved_page
from tests.lens.tiny_tokenizers import CHATML, with_chat
from tests.sweeps.small_runs import SmallConfig, add, metrics_of, result_of, tensors_of

from iclens import bundled
from iclens.cli.explore import Explore
from iclens.errors import UserError
from iclens.explorer.guard import POLICY, Guard
from iclens.lens.model.loading import load
from iclens.lens.prompt.prompt import Prompt
from iclens.sweeps import run_folder
from iclens.sweeps.store import Store

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "src" / "iclens").rglob("*.py"))
TREES = {str(path.relative_to(ROOT / "src" / "iclens")): ast.parse(path.read_text("utf-8")) for path in SOURCES}


@cache
def calls():
    """(file, called name with its dots, call) of every call in the package."""
    return list(_calls())


def _calls():
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call):
                yield file, ast.unparse(node.func), node


@cache
def imported():
    """(file, module) of every import in the package."""
    return list(_imported())


def _imported():
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                yield from ((file, one.name) for one in node.names)
            elif isinstance(node, ast.ImportFrom) and node.module:
                yield file, node.module


# What is loaded, what is run


def test_the_package_unpickles_no_file():
    """Ray's executor alone pickles, an exception of its own call, to see whether it survives; YAML is written."""
    modules = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal", "yaml"}
    known = {"work/cluster/task.py", "selection/frameworks/lm_eval.py"}
    assert {file for file, module in imported() if module.split(".")[0] in modules} <= known
    assert {name for _, name, _ in calls() if name.startswith("yaml.")} <= {"yaml.safe_dump"}
    assert not [file for file, name, _ in calls() if name in ("torch.load", "np.load", "numpy.load", "pickle.load")]
    loads = [ast.unparse(call) for _, name, call in calls() if name == "pickle.loads"]
    assert set(loads) <= {"pickle.loads(pickle.dumps(error))"}


def test_the_package_runs_no_text():
    """But for the functions of a clone that the benchmarks are given."""
    names = {"eval", "exec", "compile", "__import__", "os.system", "os.popen", "runpy.run_path"}
    found = {(file, name) for file, name, _ in calls() if name in names}
    assert found <= {("benchmarks/garg_repository.py", "exec"), ("benchmarks/garg_repository.py", "compile")}
    assert not [file for file, module in imported() if "benchmarks" in module and not _may_benchmark(file)]


def _may_benchmark(file):
    return file.startswith(("benchmarks/", "cli/bench"))


def test_processes_are_started_without_a_shell():
    for file, name, call in calls():
        if name.startswith("subprocess."):
            assert not isinstance(call.args[0], ast.Constant | ast.JoinedStr), file
            assert "shell" not in {one.arg for one in call.keywords}, file
    started = {file for file, module in imported() if module == "subprocess"}
    assert {file for file in started if not file.startswith("benchmarks/")} <= {"papers/ren_liu_2024/attention_cost.py"}


def test_no_archive_is_opened():
    assert not [file for file, module in imported() if module.split(".")[0] in ("zipfile", "tarfile", "gzip", "lzma")]
    assert not [file for file, name, _ in calls() if name.endswith("unpack_archive")]


def test_code_of_models_is_off_wherever_transformers_loads():
    n_found = 0
    for file, name, call in calls():
        if not re.fullmatch(r"(Auto\w+|loader)\.from_pretrained", name) or file.startswith("benchmarks/"):
            continue
        n_found += 1
        options = {one.arg: one.value for one in call.keywords}
        assert ast.unparse(options["trust_remote_code"]) == "False", (file, name)
        if name in ("loader.from_pretrained", "AutoModel.from_pretrained"):
            assert ast.unparse(options["use_safetensors"]) == "True", (file, name)
    assert n_found >= 6


class Planted:
    """What a pickle would run."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def model_folder(folder, **changes):
    """The bundled model in a folder, its config.json changed."""
    folder.mkdir()
    for name in ("config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"):
        shutil.copy(bundled.path() / name, folder / name)
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, **changes}))
    return folder


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_a_folder_with_a_pickle_alone_is_refused_unopened(name, tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "model.safetensors").unlink()
    (folder / name).write_bytes(pickle.dumps(Planted(tmp_path / "run")))
    with pytest.raises(UserError, match=f"only a pickle checkpoint \\({name}\\)"):
        load(str(folder))
    assert not (tmp_path / "run").exists()


def test_safetensors_are_taken_and_a_pickle_beside_them_is_not(tmp_path):
    folder = model_folder(tmp_path / "model")
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Planted(tmp_path / "run")))
    (folder / "training_args.bin").write_bytes(pickle.dumps(Planted(tmp_path / "run")))
    assert load(str(folder)).n_layers > 0
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("model_type", ["gpt2", "evil"])
def test_code_beside_a_model_does_not_run(model_type, tmp_path):
    classes = {"AutoConfig": "evil.Config", "AutoModelForCausalLM": "evil.Model", "AutoTokenizer": [None, "evil.Tok"]}
    folder = model_folder(tmp_path / "model", model_type=model_type, auto_map=classes)
    (folder / "evil.py").write_text(f"open({str(tmp_path / 'run')!r}, 'w').close()\nclass Config: pass\n")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    (folder / "tokenizer_config.json").write_text(json.dumps({**tokenizer, "auto_map": classes}))
    if model_type == "gpt2":
        assert load(str(folder)).n_layers > 0
    else:
        with pytest.raises(UserError):
            load(str(folder))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "template",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ cycler.__init__.__globals__.os.system('touch run') }}",
        "{% for m in messages %}{{ m.clear() }}{% endfor %}",
    ],
)
def test_a_chat_template_stays_in_its_sandbox(template, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    chat = [{"role": role, "content": "x"} for role in ("user", "assistant", "user")]
    assert Prompt.from_chat(chat, with_chat(CHATML)).demonstrations
    with pytest.raises(UserError):
        Prompt.from_chat(chat, with_chat(template))
    assert list(tmp_path.iterdir()) == []


# Where it writes


@pytest.mark.parametrize("name", ["../outside", "/tmp/x", "..", ".tmp-0123456789", "0123456789abcdef/../x", "ABCDEF01"])
def test_a_name_from_outside_is_no_path(name, tmp_path):
    class Named(SmallConfig):
        def key(self):
            return name

    store = Store(tmp_path / "s")
    add(store)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UserError, match="is not a run's key"):
        store.add(Named(), tensors_of(0), metrics_of(0), result_of())
    for action in (store.load, store.remove, store.find):
        with pytest.raises(UserError):
            action(name)
    assert sorted(tmp_path.rglob("*")) == before


def test_files_from_another_machine_have_the_five_names(tmp_path):
    store, config = Store(tmp_path / "s"), SmallConfig()
    files = run_folder.pack(config, tensors_of(0), metrics_of(0), result_of())
    for other in ({**files, "../evil": b""}, {**files, "evil.py": b""}, {**files, "model.safetensors": b"x"}, {}):
        with pytest.raises(UserError):
            store.add_packed({config.key(): other})
        with pytest.raises(UserError):
            store.add_packed({"../x": other})
    assert store.keys() == set()
    assert not list((tmp_path / "s" / "runs").iterdir())


@pytest.mark.parametrize("shard", ["../outside.safetensors", "/tmp/outside.safetensors", "sub/x.safetensors"])
def test_weights_are_read_from_the_models_own_folder(shard, tmp_path):
    folder = model_folder(tmp_path / "model")
    weights = (folder / "model.safetensors").rename(tmp_path / "outside.safetensors")
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": shard}}))
    assert weights.is_file()
    with pytest.raises(UserError, match="names a file of another folder"):
        load(str(folder))


# Pages


class Page(HTMLParser):
    def __init__(self, content):
        super().__init__()
        self.policy, self.scripts, self.addresses = None, 0, []
        self.feed(content)

    def handle_starttag(self, tag, attributes):
        values = dict(attributes)
        if values.get("http-equiv", "").lower() == "content-security-policy":
            self.policy = values["content"]
        self.scripts += tag == "script" and values.get("type") != "application/json"
        self.addresses += [values[name] for name in ("src", "srcset", "data", "poster") if name in values]
        self.addresses += [values["href"]] if tag == "link" else []


POLICIES = {
    "gallery": lambda: Page(page_of_gallery("words").partition("</html>")[0]),
    "index": lambda: Page(page_of_gallery("words").partition("</html>")[2]),
    "saved": lambda: Page(saved_page("words")),
    "choice": lambda: Page(page_of_choice("words")),
}


@pytest.mark.parametrize("name", POLICIES)
def test_every_page_has_a_strict_policy_and_nothing_from_outside(name):
    page = POLICIES[name]()
    check_policy(page.policy)
    assert page.scripts == (1 if name in ("saved", "choice") else 0)
    assert not [one for one in page.addresses if re.match(r"(?i)\s*(https?:)?//", one)]


def check_policy(policy):
    rules = dict(one.strip().partition(" ")[::2] for one in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["base-uri"] == rules["form-action"] == "'none'"
    for rule in ("script-src", "style-src"):
        assert re.fullmatch(r"'self'|'none'|'sha256-[\w+/=]+'", rules.get(rule, "'none'")), rules
    assert "unsafe" not in policy
    assert "http" not in policy
    assert "*" not in policy


def test_the_servers_policy_is_strict():
    check_policy(POLICY)


def test_every_template_of_a_page_is_looked_at():
    """A page that is new has to be among those above."""
    pages = {str(path.relative_to(ROOT / "src")) for path in (ROOT / "src").rglob("*.html")}
    with_head = {one for one in pages if "<head>" in (ROOT / "src" / one).read_text("utf-8")}
    assert with_head == {"iclens/report/templates/page_base.html", "iclens/explorer/static/explorer.html"}


# Servers


def test_the_explorer_listens_on_loopback():
    assert Explore().host == "127.0.0.1"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 200),
        ({"origin": "http://127.0.0.1"}, 200),
        ({"host": "evil.example"}, 403),
        ({"origin": "http://evil.example"}, 403),
        ({"origin": "null"}, 403),
        ({"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}, 403),
    ],
)
def test_other_names_and_other_pages_are_refused(headers, status):
    app = Guard(Starlette(routes=[Route("/", lambda request: PlainTextResponse("secret"))]))
    answer = TestClient(app, base_url="http://127.0.0.1").get("/", headers=headers)
    assert answer.status_code == status
    assert ("secret" in answer.text) == (status == 200)
    assert "access-control-allow-origin" not in answer.headers
    assert answer.headers["content-security-policy"] == POLICY


def test_only_the_explorer_and_ray_open_ports():
    """And nothing but transformers and datasets asks a server for anything."""
    modules = {"socket", "socketserver", "http", "urllib.request", "requests", "httpx", "aiohttp", "ftplib", "uvicorn"}
    found = {(file, module) for file, module in imported() if module in modules or module.split(".")[0] in modules}
    known = {"cli/explore.py", "explorer/app.py", "work/cluster/connection.py", "training/distributed.py"}
    assert {file for file, _ in found} <= known


def test_ray_is_started_on_loopback_without_its_dashboard():
    starts = [call for file, name, call in calls() if name == "ray.init"]
    assert starts
    for call in starts:
        options = {one.arg: ast.unparse(one.value) for one in call.keywords}
        if options.get("address") == "'local'":
            assert options["include_dashboard"] == "False"


# Known vulnerabilities


@pytest.fixture(scope="module")
def audit():
    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


SOUND = {"name": "a", "version": "1", "vulns": []}
HOLE = {"name": "b", "version": "2", "vulns": [{"id": "X-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found: c"}


@pytest.mark.parametrize(
    ("packages", "status", "said", "unsaid"),
    [
        ([SOUND], 0, "no known vulnerability in 1 packages", "NOT DONE"),
        ([SOUND, UNKNOWN], 0, "1 packages were not audited: c", "NOT DONE"),
        ([SOUND, HOLE], 1, "b 2: X-1, fixed in 3", "no known"),
        ([UNKNOWN], 0, "NOT DONE", "no known"),
        ([], 0, "NOT DONE", "no known"),
        (None, 0, "NOT DONE", "no known"),
    ],
)
def test_an_audit_that_was_not_made_is_not_called_clean(audit, packages, status, said, unsaid):
    document = None if packages is None else {"dependencies": packages}
    found, text = audit.report(document, "ConnectionError: unreachable")
    assert found == status
    assert said in text
    assert unsaid not in text
    complete = packages == [SOUND]
    assert (audit.report(document, "", required=True)[0] == 0) == complete
