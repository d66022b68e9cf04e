"""Checkpoints: whole or absent, plain data or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from videokd.checkpoint import FORMAT, load_checkpoint, load_state_dict, save_checkpoint
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
