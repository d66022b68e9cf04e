"""`init:` of a recipe: what it names, what it loads, and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from published_networks import MitMobileNetV2, MitTsn, with_random_norms
from tiny_recipes import as_config, recipe, student_settings

from videokd import first_weights
from videokd.checkpoint import load_checkpoint, save_checkpoint
from videokd.config import parse_config
from videokd.data.index import Index
from videokd.errors import ConfigError, UserError
from videokd.files import file_digest
from videokd.first_weights import InitConfig, find_weights, load_first_weights
from videokd.models.catalog import CATALOG, ModelEntry, Published, PublishedFile
from videokd.models.video_model import VideoModel
from videokd.models.weights import published_classes, refuse_other_classes
from videokd.models.weights.download import place_of
from videokd.models.zoo import create_video_model
from videokd.recipe import create_model
from videokd.types import ClassNames


def init(**settings: Any) -> InitConfig:
    return parse_config(InitConfig, settings, source="init")


@pytest.fixture(scope="module")
def kinetics() -> ClassNames:
    names = published_classes("kinetics400")
    assert names is not None
    return ClassNames(names)


@pytest.fixture(scope="module")
def torch_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a published file has been put by hand: MIT's TSM-MobileNetV2 by its published names."""
    home = tmp_path_factory.mktemp("torch_home")
    file = CATALOG["tsm_mobilenetv2_dense_mit"].weights
    assert file is not None
    folder = home / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    torch.manual_seed(0)
    theirs = with_random_norms(MitTsn(MitMobileNetV2(8), 1280, 400, 8))
    state = {f"module.{key}": value for key, value in theirs.state_dict().items()}
    content = {"epoch": 99, "arch": "mobilenetv2", "state_dict": state, "best_prec1": 69.5}
    torch.save(content, place_of(file, folder))
    return home


def network(name: str, num_classes: int) -> VideoModel:
    with torch.device("meta"):
        return create_video_model(CATALOG[name].config(), num_classes=num_classes, taps=())


def test_a_name_of_the_catalogue(
    torch_home: Path, kinetics: ClassNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    entry = CATALOG["tsm_mobilenetv2_dense_mit"]
    model = create_video_model(entry.config(), num_classes=400, taps=(), seed=0)
    report = load_first_weights(model, init(weights=entry.name), kinetics)
    assert (report.layout, report.missing, report.unexpected) == ("mit_tsm", (), ())
    assert Path(report.source).parent == torch_home / "hub" / "checkpoints"
    published = torch.load(report.source, weights_only=True)["state_dict"]
    assert torch.equal(
        model.network.get_parameter("backbone.blocks.6.0.conv_pwl.weight"),
        published["module.base_model.features.17.conv.6.weight"],
    )


@pytest.mark.filterwarnings("ignore:.*copying from a non-meta parameter")
def test_other_classes_need_one_setting(
    torch_home: Path, kinetics: ClassNames, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(torch_home))
    name = "tsm_mobilenetv2_dense_mit"
    model = network(name, 3)
    with pytest.raises(
        UserError,
        match=r"its data set kinetics400 has 400 classes, the index has 3; set init\.replace_head: "
        r"true to start a new classifier$",
    ):
        load_first_weights(model, init(weights=name), ClassNames(["a", "b", "c"]))
    report = load_first_weights(
        model, init(weights=name, replace_head=True), ClassNames(["a", "b", "c"])
    )
    assert report.head == ("backbone.classifier.weight", "backbone.classifier.bias")
    swapped = list(kinetics)
    swapped[7], swapped[8] = swapped[8], swapped[7]
    with pytest.raises(
        UserError,
        match=r"class 7 is 'arranging flowers' in its data set kinetics400 and 'assembling "
        r"computer' in the index; set init\.replace_head",
    ):
        load_first_weights(network(name, 400), init(weights=name), ClassNames(swapped))


def test_names_of_classes_are_compared_by_their_letters(kinetics: ClassNames) -> None:
    as_folders = [name.replace(" ", "_").replace("'", "").title() for name in kinetics]
    refuse_other_classes(list(kinetics), as_folders, source="w", whose="it")
    assert "massaging person's head" in list(kinetics)
    with pytest.raises(UserError, match=r"^w: class 1 is 'b' in it and 'c' in the index; set init"):
        refuse_other_classes(["a", "b"], ["A ", "c"], source="w", whose="it")
    assert published_classes("something_v2") is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"weights": "slowfast_r50_8x9"},
            r"^init\.weights 'slowfast_r50_8x9' is neither a file or run folder nor a network of "
            r"`videokd models`; did you mean 'slowfast_r50_8x8'\?$",
        ),
        ({"weights": "runs/none/w.pth"}, r"^runs/none/w\.pth: no such weights; give the path of"),
        ({"weights": "tsn_mobilenetv2"}, r"^tsn_mobilenetv2: no weights are published; train it"),
    ],
)
def test_what_is_not_there(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_first_weights(network("tsn_mobilenetv2", 2), init(**settings), ClassNames(["a", "b"]))


def test_a_folder_named_like_a_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The name is the catalogue's; the folder is written with its dot."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    (tmp_path / "tsm_r18").mkdir()
    (tmp_path / "tsm_r18" / "best.pt").write_bytes(b"x")
    with pytest.raises(UserError, match=r"^tsm_r18: no weights are published"):
        find_weights(init(weights="tsm_r18"))
    found = find_weights(init(weights="./tsm_r18"))
    assert found is not None
    assert found.path == Path("tsm_r18/best.pt")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"replace_head": True}, r"replace_head is set, but there are no weights; give init\.we"),
        ({"convert": "inflate"}, r"convert is set, but there are no weights"),
        ({"weights": "w.pth", "layout": "mmaction"}, r"layout: Input should be .*'mmaction2'"),
        ({"weights": "w.pth", "convert": "flatten"}, r"convert: Input should be 'none', 'inflate'"),
    ],
)
def test_settings_that_mean_nothing(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        init(**settings)


def test_a_run_of_other_classes_is_refused_by_name(tiny_index: Index, tmp_path: Path) -> None:
    settings = recipe(tiny_index, tmp_path / "run")
    model, _ = create_model(as_config(settings), tiny_index.classes)
    names = list(tiny_index.classes)
    file = tmp_path / "best.pt"
    others = [*names[:-1], "waving"]
    content = {"model": model.network.state_dict(), "class_names": others}
    save_checkpoint(file, content)
    settings["init"] = {"weights": str(tmp_path)}
    with pytest.raises(
        UserError, match=rf"class 11 is 'waving' in the checkpoint and '{names[-1]}'"
    ):
        create_model(as_config(settings), tiny_index.classes)
    save_checkpoint(file, content | {"class_names": names})
    _, report = create_model(as_config(settings), tiny_index.classes)
    assert report is not None
    assert report.missing == report.unexpected == ()


def tiny_entry(url: str) -> ModelEntry:
    return ModelEntry(
        name="tiny",
        family="tsm",
        role="student",
        settings=student_settings(),
        num_classes=12,
        published=Published(
            dataset="tiny", top1_pct=None, top5_pct=None, views="1x1", protocol=None, source="here"
        ),
        weights=PublishedFile(url=url, sha256_prefix=None, layout="timm"),
    )


def test_a_run_remembers_which_file_it_started_from(
    tiny_index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the published name to a run folder, with the digest that resuming compares."""
    from videokd.runs import train

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    entry = tiny_entry("https://example.org/zoo/tiny.pth")
    monkeypatch.setattr(first_weights, "CATALOG", {"tiny": entry})
    assert entry.weights is not None
    file = place_of(entry.weights)
    file.parent.mkdir(parents=True)
    source, _ = create_model(as_config(recipe(tiny_index, tmp_path / "0")), tiny_index.classes)
    backbone = {k.removeprefix("backbone."): v for k, v in source.network.state_dict().items()}
    torch.save(backbone, file)
    settings = recipe(tiny_index, tmp_path / "run", seed=9, init={"weights": "tiny"})
    settings["train"] |= {"epochs": 1}
    run_dir = train(as_config(settings), device="cpu", quiet=True).run_dir
    content = load_checkpoint(run_dir / "last.pt")
    assert content["first_weights"] == file_digest(file)
    assert content["recipe"]["init"] == {
        "weights": "tiny",
        "layout": "auto",
        "convert": "none",
        "replace_head": False,
        "partial": False,
    }
