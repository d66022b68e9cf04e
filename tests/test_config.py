"""Recipes as YAML: composition, overrides, and errors that name the place."""

from __future__ import annotations

from itertools import permutations
from pathlib import Path
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import Field

from videokd.config import (
    LEAVES_WEIGHTS,
    Config,
    DefaultKind,
    did_you_mean,
    dump_yaml,
    laid_over,
    load_config,
    parse_config,
    parse_overrides,
    paths_that_leave_weights,
    read_yaml,
)
from videokd.errors import ConfigError
from videokd.recipe import RunConfig


class Adam(Config):
    kind: Literal["adam"] = "adam"
    lr: float = Field(gt=0)


class Sgd(Config):
    kind: Literal["sgd"] = "sgd"
    lr: float = Field(gt=0)
    momentum: float = 0.9


class Train(Config):
    optim: Annotated[Adam | Sgd, Field(discriminator="kind")]
    epochs: int = 1
    terms: dict[str, Sgd] = Field(default_factory=dict)
    lists: tuple[Sgd, ...] = ()
    maybe: Sgd | None = None


class Adagrad(Config):
    kind: Literal["adagrad"] = "adagrad"
    eps: float = 1e-10


Plain = Annotated[Sgd | Adam | Adagrad, Field(discriminator="kind"), DefaultKind("sgd")]


class Steps(Config):
    """Where settings without a kind are of the first."""

    optim: Plain
    maybe: Plain | None = None
    many: dict[str, Plain] = Field(default_factory=dict)


class Places(Config):
    file: Path = Path("a")
    train: Train | None = None
    sgd: Annotated[Sgd | Adagrad | None, Field(discriminator="kind")] = None
    steps: Steps | None = None
    either: float | tuple[int, ...] = 1.0
    loose: Adagrad | None = None


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_numbers_in_scientific_notation_are_numbers(tmp_path: Path) -> None:
    path = write(tmp_path / "r.yaml", "optim: {kind: adam, lr: 1e-3}\n")
    assert load_config(Train, path).optim == Adam(lr=0.001)


def test_bases_lie_below_and_overrides_above(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "optim: {kind: sgd, lr: 1.0, momentum: 0.5}\nepochs: 3\n")
    write(tmp_path / "b.yaml", "epochs: 4\n")
    path = write(tmp_path / "r.yaml", "base: [a.yaml, b.yaml]\noptim: {lr: 2.0}\n")
    assert load_config(Train, path) == Train(optim=Sgd(lr=2.0, momentum=0.5), epochs=4)
    changed = load_config(Train, path, ["optim.momentum=0", "epochs=7"])
    assert changed == Train(optim=Sgd(lr=2.0, momentum=0.0), epochs=7)


def test_another_kind_replaces_the_mapping_below(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "optim: {kind: sgd, lr: 1.0, momentum: 0.5}\n")
    path = write(tmp_path / "r.yaml", "base: a.yaml\noptim: {kind: adam, lr: 2}\n")
    assert load_config(Train, path).optim == Adam(lr=2)
    same = load_config(Train, path, ["optim.kind=sgd", "optim.lr=3"])
    assert same.optim == Sgd(lr=3)


@pytest.mark.parametrize(
    ("below", "above", "expected"),
    [
        ({"lr": 1}, {"kind": "adagrad"}, {"kind": "adagrad"}),
        ({"lr": 1}, {"kind": "sgd", "momentum": 0}, {"lr": 1, "kind": "sgd", "momentum": 0}),
        ({"kind": "sgd", "lr": 1}, {"momentum": 0}, {"kind": "sgd", "lr": 1, "momentum": 0}),
        ({"kind": "adagrad", "eps": 1}, {"lr": 1}, {"lr": 1}),
        ({"kind": "adagrad", "eps": 1}, {"lr": 1, "momentum": 0}, {"lr": 1, "momentum": 0}),
        # What says no kind, and nothing that only the default kind needs, changes what is there.
        ({"kind": "adagrad"}, {"eps": 2}, {"kind": "adagrad", "eps": 2}),
        ({"kind": "adam", "lr": 1}, {"lr": 2}, {"kind": "adam", "lr": 2}),
    ],
)
def test_a_kind_that_may_be_left_out_counts_in_merging(
    below: dict[str, Any], above: dict[str, Any], expected: dict[str, Any]
) -> None:
    for wrap in (
        lambda data: {"optim": data},
        lambda data: {"maybe": data},
        lambda data: {"many": {"a": data}},
    ):
        assert laid_over(wrap(below), wrap(above), Steps) == wrap(expected)
    checked = parse_config(Steps, {"optim": expected}, source="r.yaml")
    assert checked.optim.kind == expected.get("kind", "sgd")


def test_a_kind_that_may_be_left_out_counts_over_bases_and_under_overrides(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "optim: {lr: 1}\n")
    path = write(tmp_path / "r.yaml", "base: a.yaml\noptim: {kind: adagrad, eps: 2}\n")
    assert load_config(Steps, path) == Steps(optim=Adagrad(eps=2))
    assert load_config(Steps, path, ["optim.lr=3"]) == Steps(optim=Sgd(lr=3))
    assert load_config(Steps, tmp_path / "a.yaml", ["optim.kind=adagrad"]) == Steps(optim=Adagrad())


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        (["optim.kind=adam", "optim.lr=2"], {"kind": "adam", "lr": 2}),
        (["optim.kind=adam", "optim={lr: 2}"], {"kind": "adam", "lr": 2}),
        (["optim={kind: adam, lr: 3}", "optim.lr=2"], {"kind": "adam", "lr": 2}),
        (["optim.preset=a", "optim.kind=b", "optim.c=1"], {"preset": "a", "kind": "b", "c": 1}),
        (["optim=null", "optim.lr=2"], {"lr": 2}),
        (["optim.momentum=0", "epochs=2"], {"kind": "sgd", "lr": 1, "momentum": 0}),
    ],
)
def test_overrides_mean_the_same_in_any_order(
    tmp_path: Path, overrides: list[str], expected: dict[str, Any]
) -> None:
    path = write(tmp_path / "r.yaml", "optim: {kind: sgd, lr: 1, momentum: 0.5}\n")
    for ordered in permutations(overrides):
        assert read_yaml(path, ordered)["optim"] == expected


def test_of_an_override_that_is_given_twice_the_last_counts() -> None:
    assert parse_overrides(["a.b=1", "a={b: 2, c: 3}", "a.b=4"]) == {"a": {"b": 4, "c": 3}}


def test_a_circle_of_bases_is_named(tmp_path: Path) -> None:
    write(tmp_path / "a.yaml", "base: b.yaml\n")
    write(tmp_path / "b.yaml", "base: a.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml: recipes name each other .* in a circle"):
        read_yaml(tmp_path / "a.yaml")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("optim: {kind: adam, lrr: 1}\n", r"unknown key 'optim\.lrr'; did you mean 'lr'\?"),
        ("optim: {kind: adam, lr: 1}\nepoch: 2\n", r"unknown key 'epoch'; did you mean 'epochs'"),
        ("optim: {kind: adam, lr: 1, momentum: 1}\n", r"unknown key 'optim\.momentum'; known: "),
        ("optim: {kind: sgd, lr: -1}\n", r"optim\.lr: Input should be greater than 0 \(given -1\)"),
        ("optim: {kind: adamw, lr: 1}\n", r"optim\.kind: 'adamw' is not known; allowed: 'adam'"),
        ("optim: {lr: 1}\n", r"optim\.kind: it is missing; allowed: 'adam', 'sgd'$"),
        ("optim: {kind: sgd}\n", r"optim\.lr: a value is required"),
        (
            "optim: {kind: sgd, lr: 1}\nterms: {soft: {lr: 1, momentun: 2}}\n",
            r"unknown key 'terms\.soft\.momentun'; did you mean 'momentum'",
        ),
        (
            "optim: {kind: sgd, lr: 1}\nlists: [{lr: 1}, {lr: 1, momentun: 2}]\n",
            r"unknown key 'lists\.1\.momentun'; did you mean 'momentum'",
        ),
        (
            "optim: {kind: sgd, lr: 1}\nmaybe: {lr: one}\n",
            r"maybe\.lr: Input should be a valid number",
        ),
        (
            "optim: {kind: sgd, lr: 1}\nepochs: ${optim.lr}\n",
            r"epochs: '\$\{optim\.lr\}' looks like",
        ),
        ("optim: {kind: sgd, lr: .inf}\n", r"optim\.lr: Input should be a finite number"),
        ("- 1\n", r"a recipe is a mapping"),
        ("a: [1\n", r"not readable as YAML"),
        ("a: !!python/object/apply:os.system ['true']\n", r"not readable as YAML"),
    ],
)
def test_one_plain_line_with_the_dotted_path(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "r.yaml", text)
    with pytest.raises(ConfigError, match=message) as caught:
        load_config(Train, path)
    assert "\n" not in str(caught.value)
    assert str(caught.value).startswith(str(path))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train: 3", r": train: Input should be a mapping such as {optim: \.\.\.} \(given 3\)$"),
        (
            "train: {optim: sgd}",
            r": train\.optim: .* a mapping such as {kind: sgd} \(given 'sgd'\)",
        ),
        ("train: {optim: [1]}", r"such as {kind: \.\.\.}; kinds: adam, sgd \(given \[1\]\)"),
        (
            "train: {optim: {kind: adam, lr: 1}, terms: no}",
            r": train\.terms: Input should be a mapping such as {name: \.\.\.} ",
        ),
        (
            "steps: {optim: x}",
            r": steps\.optim: Input should be a mapping such as {lr: \.\.\.} or {kind: \.\.\.}; "
            r"kinds: sgd, adam, adagrad \(given 'x'\)$",
        ),
        ("loose: 1", r": loose: Input should be a mapping of settings; known: eps, kind \(given 1"),
        (
            "file: [a, b]",
            r": file: Input should be a path, written as text \(given \['a', 'b'\]\)$",
        ),
        ("either: x", r": either: Input should be a valid number"),
        ("either: [1, x]", r": either: Input should be a valid number"),
        ("steps: {many: {sgd: {lr: x}}}", r": steps\.optim: a value is required"),
        ("steps: {optim: {lr: 1}, many: {sgd: {lr: x}}}", r": steps\.many\.sgd\.lr: Input should"),
        ("sgd: {kind: sgd, lr: [sgd]}", r": sgd\.lr: Input should be a valid number"),
    ],
)
def test_a_value_of_another_form_is_told_the_form(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(Places, yaml.safe_load(text), source="r.yaml")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["epochs", "=3", "optim..lr=3", "optim.=3", "optim[lr]x=3"])
def test_an_override_has_a_key_and_a_value(tmp_path: Path, override: str) -> None:
    path = write(tmp_path / "r.yaml", "optim: {kind: sgd, lr: 1}\n")
    with pytest.raises(ConfigError, match="not of the form key=value"):
        load_config(Train, path, [override])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no\.yaml: no such recipe file"):
        read_yaml(tmp_path / "no.yaml")


def test_dumped_yaml_reads_back_the_same(tmp_path: Path) -> None:
    config = Train(optim=Sgd(lr=1e-5), terms={"a": Sgd(lr=3)}, lists=(Sgd(lr=1),))
    path = write(tmp_path / "r.yaml", dump_yaml(config))
    assert load_config(Train, path) == config


def test_fields_that_leave_the_weights_are_found_below_and_may_be_left_out() -> None:
    class Loading(Config):
        workers: Annotated[int, LEAVES_WEIGHTS] = Field(default=2, ge=0)
        repeats: int = 1

    class Run(Config):
        loading: Loading = Loading()
        folder: Annotated[Path, LEAVES_WEIGHTS] = Path("runs")
        seed: int = 0

    paths = paths_that_leave_weights(Run)
    assert paths == ["loading.workers", "folder"]
    assert dump_yaml(Run(seed=3), without=paths) == "loading:\n  repeats: 1\nseed: 3\n"
    with pytest.raises(ConfigError, match=r"workers: Input should be greater than or equal to 0"):
        parse_config(Run, {"loading": {"workers": -1}}, source="r.yaml")


def test_what_leaves_the_weights_of_a_run() -> None:
    assert paths_that_leave_weights(RunConfig) == [
        "data.num_workers",
        "data.keep_decoded_gib",
        "data.decode_time_limit_seconds",
        "data.max_unreadable_pct",
        "train.log_every_steps",
        "train.checkpoint_every_steps",
        "train.tensorboard",
        "train.wandb",
        "output_dir",
    ]


def test_settings_are_frozen() -> None:
    config = Sgd(lr=1)
    with pytest.raises(ValueError, match="frozen"):
        config.lr = 2  # type: ignore[misc]


def test_parse_names_its_source() -> None:
    with pytest.raises(ConfigError, match=r"^eval: lr: "):
        parse_config(Sgd, {"lr": 0}, source="eval")


@pytest.mark.parametrize(
    ("name", "known", "expected"),
    [
        ("weigth", ["weight", "height"], "did you mean 'weight'?"),
        ("WEIGHT", ["weight", "height"], "did you mean 'weight'?"),
        ("adamw", ["SGD", "AdamW"], "did you mean 'AdamW'?"),
        ("zzz", ["b", "a"], "known: a, b"),
        ("", [f"{n:02}" for n in range(32)], "known: " + ", ".join(f"{n:02}" for n in range(32))),
        (
            "",
            [f"{n:02}" for n in range(33)],
            "known: " + ", ".join(f"{n:02}" for n in range(32)) + ", ... (33)",
        ),
        ("zzz", [], "nothing is allowed here"),
    ],
)
def test_did_you_mean(name: str, known: list[str], expected: str) -> None:
    assert did_you_mean(name, known) == expected
