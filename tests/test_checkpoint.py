"""Checkpoints: whole or absent, plain data or refused."""

from __future__ import annotations

import contextlib
import pickle
import sys
import types
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from videokd.checkpoint import (
    FORMAT,
    load_checkpoint,
    load_state_dict,
    load_weights_file,
    save_checkpoint,
)
from videokd.errors import UserError


class Evil:
    def __reduce__(self) -> tuple[object, ...]:
        return (Path.touch, (Path("evil"),))


def test_round_trip(tmp_path: Path) -> None:
    path = tmp_path / "run" / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.arange(3.0)}, "state": {"step": 3, "best": None}})
    content = load_checkpoint(path)
    assert torch.equal(content["model"]["w"], torch.arange(3.0))
    assert content["state"] == {"step": 3, "best": None}
    assert [p.name for p in path.parent.iterdir()] == ["last.pt"]


def test_a_failed_save_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"state": {"step": 1}})
    with pytest.raises(Exception, match=r"pickle|local"):
        save_checkpoint(path, {"state": lambda: None})
    assert load_checkpoint(path)["state"] == {"step": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["last.pt"]


def test_code_in_a_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": FORMAT, "model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt: not a readable checkpoint"):
        load_checkpoint(tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt: not a readable checkpoint"):
        load_state_dict(tmp_path / "evil.pt")
    assert not (tmp_path / "evil").exists()


def test_what_is_no_checkpoint_is_said(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such checkpoint"):
        load_checkpoint(tmp_path / "no.pt")
    (tmp_path / "text.pt").write_text("not weights")
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "text.pt")
    (tmp_path / "empty.pt").touch()
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(tmp_path / "empty.pt")
    torch.save({"w": torch.zeros(1)}, tmp_path / "bare.pt")
    with pytest.raises(UserError, match="not a videokd checkpoint"):
        load_checkpoint(tmp_path / "bare.pt")
    torch.save({"format": FORMAT + 1}, tmp_path / "newer.pt")
    with pytest.raises(UserError, match=f"checkpoint format {FORMAT + 1}, this version reads"):
        load_checkpoint(tmp_path / "newer.pt")


def test_a_truncated_checkpoint_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "last.pt"
    save_checkpoint(path, {"model": {"w": torch.zeros(1000)}})
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(path)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"root:x:0:0:root:/root:/bin/bash\n", id="text"),
        pytest.param(b"\x80\x02)u.", id="stack underflow"),
        pytest.param(b"\x80\x02h\x28.", id="memo that is not there"),
        pytest.param(b"\x80\x02}q\x00X\xff\xff\xff\xff.", id="length beyond the end"),
        pytest.param(b"\x00" * 20, id="zeros"),
    ],
)
@pytest.mark.parametrize("name", ["w.pt", "w.safetensors"])
def test_whatever_a_file_holds_it_is_one_plain_line(
    tmp_path: Path, content: bytes, name: str
) -> None:
    (tmp_path / name).write_bytes(content)
    for read in (load_checkpoint, load_weights_file):
        with pytest.raises(UserError, match=r"not (a readable checkpoint|readable as)") as caught:
            read(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_flipped_bits_are_a_checkpoint_or_one_plain_line(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    save_checkpoint(path, {"model": {"w": torch.zeros(10)}, "state": {"step": 3}})
    whole = path.read_bytes()
    for position in range(0, len(whole), 7):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x5A]) + whole[position + 1 :])
        with contextlib.suppress(UserError):
            load_checkpoint(path)


def test_a_missing_entry_is_one_plain_line(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "best.pt", {"model": {}})
    content = load_checkpoint(tmp_path / "best.pt")
    assert content.get("recipe") is None
    with pytest.raises(UserError, match=r"best\.pt: a checkpoint without 'recipe'; remove it"):
        content["recipe"]


def mmengine_log(values: list[float]) -> object:
    """What mmengine keeps beside the weights: arrays, and the methods of its own class by name."""
    module = types.ModuleType("mmengine.logging.history_buffer")

    class HistoryBuffer:
        def __init__(self) -> None:
            self.history = np.array(values)

        def minimum(self) -> None: ...

        def __getstate__(self) -> dict[str, Any]:
            return {"history": self.history, "methods": {"min": HistoryBuffer.minimum}}

    for thing, name in ((HistoryBuffer, ""), (HistoryBuffer.minimum, ".minimum")):
        thing.__module__ = module.__name__
        thing.__qualname__ = f"HistoryBuffer{name}"
    module.HistoryBuffer = HistoryBuffer  # type: ignore[attr-defined]
    for name in ("mmengine", "mmengine.logging"):
        sys.modules[name] = types.ModuleType(name)
    sys.modules[module.__name__] = module
    return HistoryBuffer()


@pytest.mark.parametrize("is_zip", [True, False])
def test_the_log_beside_published_weights_is_passed_over(tmp_path: Path, is_zip: bool) -> None:
    """As mmengine and older trainings save it; its classes are neither there nor run."""
    path = tmp_path / "w.pth"
    content = {
        "meta": {"epoch": 100, "mmengine_version": "0.7.1"},
        "state_dict": OrderedDict({"backbone.conv1.conv.weight": torch.ones(2)}),
        "message_hub": {"log_scalars": {"train/loss": mmengine_log([2.0, 1.0])}},
        "best_prec1": np.float64(73.2),
    }
    try:
        torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    finally:
        for name in [name for name in sys.modules if name.startswith("mmengine")]:
            del sys.modules[name]
    assert load_weights_file(path).tensors.keys() == {"backbone.conv1.conv.weight"}
    assert "mmengine" not in sys.modules
    # Only for that one file: the table of names is PyTorch's, and of the whole process.
    assert not [name for name in torch.serialization.get_safe_globals() if isinstance(name, tuple)]
    with pytest.raises(UserError, match="not a readable checkpoint"):
        load_checkpoint(path)  # ours hold nothing of the kind


def test_a_name_that_stands_for_nothing_runs_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that calls `getattr` to come by something else gets a thing that does nothing."""

    class Sly:
        def __reduce__(self) -> tuple[object, ...]:
            return (getattr, ("harmless", "upper"))

    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Sly()}, "w.pth")
    assert load_weights_file(Path("w.pth")).tensors.keys() == {"w"}
    torch.save({"state_dict": {"w": torch.ones(1), "x": Sly()}}, "w.pth")
    with pytest.raises(
        UserError, match=r"w\.pth: 'x' is a numpy array or another object, not a te"
    ):
        load_weights_file(Path("w.pth"))


def test_files_of_old_pytorch_saved_on_a_gpu(tmp_path: Path) -> None:
    """As MIT's are: no zip, storages of CUDA. A CPU's pickle differs from that in two names."""
    path = tmp_path / "w.pth.tar"
    content = {"epoch": 50, "state_dict": {"module.new_fc.bias": torch.arange(3.0)}}
    torch.save(content, path, _use_new_zipfile_serialization=False)
    pickled = path.read_bytes()
    for cpu, cuda in (
        (b"ctorch\nFloatStorage\n", b"ctorch.cuda\nFloatStorage\n"),
        (b"X\x03\0\0\0cpu", b"X\x06\0\0\0cuda:0"),
    ):
        assert cpu in pickled
        pickled = pickled.replace(cpu, cuda)
    path.write_bytes(pickled)
    assert load_state_dict(path)["module.new_fc.bias"].tolist() == [0, 1, 2]


def test_which_name_a_file_wants_to_run_is_said(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(1)}, "x": Evil()}, tmp_path / "w.pth")
    with pytest.raises(
        UserError,
        match=r"w\.pth: not a readable checkpoint of weights \(it holds pathlib\.Path, which is "
        r"more than tensors and plain data\); nothing in a file is run here; .* torch\.save\(",
    ):
        load_weights_file(tmp_path / "w.pth")


def test_the_classes_of_our_own_checkpoints_come_along(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "a.pt", {"model": {"w": torch.ones(1)}, "class_names": ["x", "y"]})
    assert load_weights_file(tmp_path / "a.pt").class_names == ("x", "y")
    torch.save({"w": torch.ones(1)}, tmp_path / "b.pt")
    assert load_weights_file(tmp_path / "b.pt").class_names is None


@pytest.mark.parametrize("key", ["model", "state_dict", "model_state", "model_state_dict", None])
def test_published_files_nest_their_weights(tmp_path: Path, key: str | None) -> None:
    weights = {"fc.weight": torch.ones(2, 2)}
    torch.save({key: weights, "epoch": 3} if key else weights, tmp_path / "w.pth")
    assert set(load_state_dict(tmp_path / "w.pth")) == {"fc.weight"}


def test_safetensors_are_read(tmp_path: Path) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "w.safetensors")
    assert torch.equal(load_state_dict(tmp_path / "w.safetensors")["a"], torch.ones(2))
    (tmp_path / "bad.safetensors").write_bytes(b"12345678901234567890")
    with pytest.raises(UserError, match="not readable as safetensors"):
        load_state_dict(tmp_path / "bad.safetensors")


def test_no_tensors_no_state_dict(tmp_path: Path) -> None:
    torch.save({"epoch": 3}, tmp_path / "w.pt")
    with pytest.raises(UserError, match="holds no state dict"):
        load_state_dict(tmp_path / "w.pt")


def test_a_pickle_of_another_protocol_is_refused_without_a_warning(
    tmp_path: Path, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / "evil.pth"
    path.write_bytes(pickle.dumps({"state_dict": Evil()}, protocol=4))
    with pytest.raises(UserError, match="not a readable checkpoint of weights"):
        load_weights_file(path)
    assert not Path("evil").exists()
    assert [str(one.message) for one in recwarn] == []
