"""Parameters: strict, every error at once, each with its fix."""

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from isrdpo.core import params, prompts, strict_yaml

PRESETS = Path(__file__).parents[2] / "params"
TOYBOX = PRESETS / "toybox.yaml"
LOADED = params.load(TOYBOX)
KEYS = [
    *(name for name in params.Params.model_fields if name not in params.SECTIONS),
    *(f"{name}.{key}" for name, section in params.SECTIONS.items() for key in section.model_fields),
]
FEW = settings(max_examples=80, deadline=None, derandomize=True)
NUMBERS = st.one_of(st.integers(), st.floats(), st.sampled_from([10**20, 2**63, 10**400, 1e300, 1e-300]))
VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), NUMBERS, st.text(max_size=30)),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=9), inner, max_size=3)
    ),
    max_leaves=5,
)


def complaints(*overrides: str, preset: Path = TOYBOX) -> str:
    with pytest.raises(params.ParamsError) as error:
        params.load(preset, list(overrides))
    return str(error.value)


@pytest.mark.parametrize(
    "preset",
    [
        p
        for p in sorted(PRESETS.glob("*.yaml"))
        if p.name not in ("base.yaml", "study.yaml", "sensitivity.yaml")
    ],
    ids=lambda p: p.name,
)
def test_every_preset_is_valid_and_says_what_it_is(preset: Path) -> None:
    assert params.load(preset, ["data=toybox"])
    head = preset.read_text().split("\n\n")[0]
    assert all(line.startswith("#") for line in head.splitlines())
    for word in ("Reproduces", "Hardware", "Time", f"isrdpo run params/{preset.name}"):
        assert word in head, word


def test_base_has_every_key_once_with_a_comment() -> None:
    lines = (PRESETS / "base.yaml").read_text().splitlines()
    for above, line in zip(["", *lines], lines, strict=False):
        if re.match(r" *\w+:( |$)", line) and not re.fullmatch(r"\w+:", line):
            assert " # " in line or above.strip().startswith("#"), f"no unit or source: {line}"
    base = params.read_file(PRESETS / "base.yaml")
    assert list(base) == list(params.Params.model_fields)
    for name, section in params.SECTIONS.items():
        assert list(base[name]) == list(section.model_fields), name
    assert base["prompts"] == {
        "context": prompts.CONTEXT,
        "retrospection": prompts.RETROSPECTION,
        "judge": prompts.JUDGE,
        "judge_without_context": prompts.JUDGE_WITHOUT_CONTEXT,
    }


def test_base_alone_lacks_only_the_data(tmp_path: Path) -> None:
    (tmp_path / "empty.yaml").write_text("seed: 1\n")
    assert complaints(preset=tmp_path / "empty.yaml").startswith("data.path: where are the data?")


def test_preset_over_base_and_command_line_over_preset(tmp_path: Path) -> None:
    preset = tmp_path / "mine.yaml"
    preset.write_text("data: {path: toybox}\ntrain: {epochs: 2, learning_rate: 1e-6}\n")
    settings = params.load(preset, ["train.epochs=7", "data=somewhere"])
    assert (settings.train.epochs, settings.train.learning_rate, settings.train.beta, settings.data.path) == (
        7,
        1e-6,
        0.1,
        "somewhere",
    )


def test_saved_and_read_back_is_the_same(tmp_path: Path) -> None:
    settings = params.load(
        TOYBOX, ["train.learning_rate=5e-7", "prompts.context=Was: sieht man? 'ß' #1", "keep_policies=2"]
    )
    settings.save(tmp_path / "params.yaml")
    assert params.Params.from_file(tmp_path / "params.yaml") == settings
    assert params.load(tmp_path / "params.yaml") == settings


def test_yaml_has_no_surprises() -> None:
    text = "{a: 5e-7, b: no, c: 1:30, e: 1_000, f: 1., g: .5, h: on, i: true, j: ~, k: 0x10, l: 010}"
    assert strict_yaml.parse(text, "here") == {
        "a": 5e-7,
        "b": "no",
        "c": "1:30",
        "e": 1000,
        "f": 1.0,
        "g": 0.5,
        "h": "on",
        "i": True,
        "j": None,
        "k": 16,
        "l": 10,
    }
    for text, says in (
        ("a: 1\nb: 2\na: 3", "here, line 3: a is given twice; keep one"),
        ("s: {x: 1, x: 2}", "here, line 1: x is given twice; keep one"),
        ("? [a]\n: 1", "here: a key must be a word"),
        ("a: &x [1]\nb: *x", "here, line 2: *x is an alias; write the value out"),
        ("[" * 3000 + "]" * 3000, "here, line 1: not YAML (nested too deeply)"),
        ("a: [1", "here, line 1: not YAML"),
        (
            "a: !!python/object:os.system {}",
            "here, line 1: !!python/object:os.system is a tag; write the plain value",
        ),
    ):
        with pytest.raises(strict_yaml.YamlError, match=re.escape(says)):
            strict_yaml.parse(text, "here")


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed=no", "seed: 'no' is not a whole number"),
        ("seed=1.5", "seed: 1.5 is not a whole number"),
        ("seed=true", "seed: True is not a whole number"),
        ("seed=-1", "seed: -1 is not a whole number, 0 or more"),
        ("iterations=-1", "iterations: -1 is not a whole number, 0 or more"),
        ("respond.temperature=.nan", "respond.temperature: nan is not a number, 0 or more"),
        ("respond.top_p=1.5", "respond.top_p: 1.5 is not a share above 0, at most 1"),
        ("respond.top_p=0", "respond.top_p: 0 is not a share above 0, at most 1"),
        ("judge.orders=3", "judge.orders: 3 is not one of 1, 2"),
        ("judge.orders=true", "judge.orders: True is not one of 1, 2"),
        (
            "judge.method=scor",
            "judge.method: 'scor' is not one of generate, score, truth, random, given; did",
        ),
        ("train.ld_alpha=2", "train.ld_alpha: 2 is not a share, 0 to 1, or null"),
        ("video.cache=yes", "video.cache: 'yes' is not true or false"),
        ("keep_policies=none", "keep_policies: 'none' is not all, last or a whole number above 0"),
        ("keep_policies=0", "keep_policies: 0 is not all, last or a whole number above 0"),
        ("model.device=gpu", "model.device: 'gpu' is not auto, cpu, cuda, cuda:<number> or mps"),
        (
            "data.videos=../elsewhere",
            "data.videos: '../elsewhere' leads out of data.path; give a path inside it",
        ),
        ("data.test=/etc/passwd", "data.test: '/etc/passwd' leads out of data.path; give a path inside it"),
        ("run=", "run: where does the run go? give a folder, such as outputs/run"),
        ("train=3", "train is a section; give train.<key>"),
        ("train", "'train': not key=value"),
        ("respond.temprature=1", "there is no key respond.temprature; did you mean respond.temperature?"),
        ("temperature=1", "there is no key temperature; did you mean respond.temperature?"),
        ("sed=1", "there is no key sed; did you mean seed?"),
        ("qqqq=1", "there is no key qqqq; known here: run, arm, seed, iterations"),
        ("seed=[1", "seed, line 1: not YAML"),
        ("seed=!!int ''", "seed, line 1: !!int is a tag"),
        ("seed=*a", "seed, line 1: *a is an alias"),
        ("seed=2026-11-27", "seed: '2026-11-27' is not a whole number"),
        ("seed=9223372036854775808", "seed: 9223372036854775808 is too large; at most 2^63 - 1"),
        ("iterations=100", "iterations: 100 is too large; at most 99"),
        ("train.batch_size=100000000000000000000", "train.batch_size: 100000000000000000000 is too large"),
        (
            "train.epochs=1000000000",
            "train.epochs: 1000000000 is too large; at most 1000, since training has",
        ),
        ("train.learning_rate=1e300", "train.learning_rate: 1e+300 is too large; at most 1, since weights"),
        ("train.learning_rate=.inf", "train.learning_rate: inf is too large; at most 1"),
        ("train.warmup_ratio=1.5", "train.warmup_ratio: 1.5 is not a share, 0 to 1"),
        ("train.lora_dropout=1", "train.lora_dropout: 1 is not a share, 0 or more, below 1"),
        ("video.frames=1000000000", "video.frames: 1000000000 is too large; at most 4096"),
        ("video.frames=0", "video.frames: 0 is not a whole number above 0, or null"),
        ("score.retries=101", "score.retries: 101 is too large; at most 100"),
        ("score.concurrency=1001", "score.concurrency: 1001 is too large; at most 1000"),
        ("toybox.crf=52", "toybox.crf: 52 is too large; at most 51"),
        ("data.samples=999999999", "data.samples: Toybox would draw 1000000"),
        ("respond.temperature=1e-300", "respond.temperature: 1e-300 is too close to 0 to divide by"),
        ("model.device=cuda:99999999999999999999", "model.device: 'cuda:99999999999999999999' is not auto"),
        ("run='outputs/a\0b'", "run, line 1: not YAML (the character U+0000"),
        ('run="outputs/a\\0b"', "run: 'outputs/a\\x00b' is not text in one line"),
        ('arm="a\\nb"', "arm: 'a\\nb' is not text in one line"),
        ('prompts.context="\\e[31m"', "prompts.context: '\\x1b[31m' is not text without control characters"),
        ("run=\udcff", "run: '\\udcff' is not text"),
        ("run=outputs/a ", "run: 'outputs/a ' begins or ends with a blank"),
        ("\x1b[31m=1", "there is no key '\\x1b[31m'; known here: run"),
        ("score.base_url=http://[", "score.base_url: 'http://[' is not an address"),
        ("score.base_url=http://a:b/v1", "score.base_url: 'http://a:b/v1' is not an address"),
        ("judge.min_margin=0.5", None),
        (
            "prompts.judge=Which? {first}",
            "prompts.judge: its slots are ['first']; they must be ['context', 'first', 'question', 'second']",
        ),
    ],
)
def test_one_clear_line(override: str, says: str | None) -> None:
    if says is None:
        assert params.load(TOYBOX, [override])
    else:
        messages = complaints(override)
        assert messages.startswith(says) and "\n" not in messages


def test_rules_between_keys() -> None:
    assert "judge.min_margin: a generated verdict has no margin" in complaints(
        "judge.method=generate", "judge.min_margin=0.5"
    )
    assert "judge.method: truth needs known facts" in complaints("judge.method=truth", "data=elsewhere")


def test_all_errors_at_once(tmp_path: Path) -> None:
    preset = tmp_path / "bad.yaml"
    preset.write_text("sed: 1\nrespond: {temperature: hot, top_k: -1}\njudge: 3\n")
    messages = complaints("iterations=-1", "nonsense", "data=", preset=preset).splitlines()
    assert len(messages) == 7
    assert (
        f"{preset}: there is no key sed; did you mean seed?" in messages
        and "respond.temperature: 'hot' is not a number, 0 or more" in messages
    )


def test_a_file_of_a_run_is_checked_as_strictly(tmp_path: Path) -> None:
    values = params.load(TOYBOX).to_dict()
    values["respond"].pop("top_k")
    values["extra"] = 1
    (tmp_path / "params.yaml").write_text(strict_yaml.dump(values | {"train": 3}))
    with pytest.raises(params.ParamsError) as error:
        params.Params.from_file(tmp_path / "params.yaml")
    for says in ("respond.top_k is missing", "there is no key extra", "train is a section"):
        assert f"params.yaml: {says}" in str(error.value)


def test_missing_preset_names_the_nearest() -> None:
    assert (
        complaints(preset=PRESETS / "toybx.yaml")
        == f"{PRESETS / 'toybx.yaml'}: no such preset; did you mean {PRESETS / 'toybox.yaml'}?"
    )


@pytest.mark.parametrize(
    "secret", ["hf_" + "a1" * 15, "sk-" + "b" * 24, "https://me:pass@host/x", "Bearer abcdefghijkl"]
)
def test_secrets_are_refused_and_never_shown(secret: str) -> None:
    for override in (
        f"model.path={secret}",
        f"seed={secret}",
        f"train.hf_token={secret}",
        f"keep_policies={secret}",
        secret,
    ):
        assert secret not in complaints(override)
    assert "train.hf_token looks like a secret" in complaints(f"train.hf_token={secret}")


def test_override_of_a_section_is_checked() -> None:
    settings = params.load(TOYBOX)
    assert settings.override("respond", {"temperature": 1}).respond.temperature == 1.0
    assert settings.override("", {"seed": 3}).seed == 3
    with pytest.raises(params.ParamsError, match="did you mean respond.temperature"):
        settings.override("respond", {"temperatur": 1})


@pytest.mark.parametrize(
    "text", ["2e3", "1_000", "0x10", "no", "null", "1:30", "2026-11-27", "+1", ".5", "[a", "~", "a: b", "#x"]
)
def test_text_of_the_command_line_stays_text(text: str, tmp_path: Path) -> None:
    loaded = params.load(TOYBOX, [f"run={text}", f"arm={text}"])
    loaded.save(tmp_path / "params.yaml")
    again = params.Params.from_file(tmp_path / "params.yaml")
    assert again == loaded
    assert (again.run, again.arm) == (text, text)


def test_text_that_may_be_null_is_null_only_where_it_says_so() -> None:
    def tower(text: str) -> str | None:
        return params.load(TOYBOX, [f"model.image_tower={text}"]).model.image_tower

    assert [tower(text) for text in ("null", "~", "2e3", "no", "'null'")] == [None, None, "2e3", "no", "null"]


@FEW
@given(st.text(st.characters(exclude_categories=["Cs"]), max_size=40), st.sampled_from(["run", "arm"]))
def test_any_text_is_refused_or_written_and_read_back(text: str, key: str) -> None:
    try:
        changed = LOADED.override("", {key: text})
    except params.ParamsError:
        return
    again = params.build(strict_yaml.parse(strict_yaml.dump(changed.to_dict()), "here"))
    assert again == changed
    assert getattr(again, key) == text


@FEW
@given(st.sampled_from(KEYS), VALUES)
def test_any_value_at_any_key_is_taken_or_refused_in_one_line(key: str, value: Any) -> None:
    section, _, name = key.rpartition(".")
    try:
        changed = LOADED.override(section, {name: value})
    except params.ParamsError as error:
        lines = str(error).splitlines()
        assert all(line.startswith(key.split(".")[0]) and len(line) < 400 for line in lines), lines
    else:
        assert params.build(strict_yaml.parse(strict_yaml.dump(changed.to_dict()), "here")) == changed


def test_a_number_that_python_does_not_write_is_one_line() -> None:
    with pytest.raises(params.ParamsError, match="^seed: a number of thousands of digits is too large"):
        LOADED.override("", {"seed": 10**5000})


@pytest.mark.parametrize("content", [b"", b"- 1", b"3", b"\xff\xfea\x00", b"\x00", b"a: \xff"])
def test_a_file_that_is_no_preset_is_one_line(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.yaml").write_bytes(content)
    message = complaints(preset=tmp_path / "odd.yaml")
    assert message.startswith(f"{tmp_path / 'odd.yaml'}") and "\n" not in message


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "huge.yaml").open("wb") as file:
        file.truncate(2**40)  # a file of holes
    assert "more than the" in complaints(preset=tmp_path / "huge.yaml")


def test_a_run_made_before_arms_were_named_opens(tmp_path: Path) -> None:
    values = LOADED.to_dict()
    values.pop("arm")
    (tmp_path / "params.yaml").write_text(strict_yaml.dump(values))
    assert params.Params.from_file(tmp_path / "params.yaml") == LOADED.override("", {"arm": ""})
