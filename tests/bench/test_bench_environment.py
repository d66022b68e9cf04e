from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import videokd
from videokd.bench import environment as environment_module
from videokd.bench.environment import cpu_name, environment, git_sha

GIT = shutil.which("git")


def test_the_stamp_of_a_cpu_names_machine_and_versions():
    stamp = environment("cpu")
    assert set(stamp) == {"device", "versions", "clocks"}
    assert stamp["device"] == f"cpu: {cpu_name()}"
    versions = dict(stamp["versions"])
    assert int(versions.pop("cores")) >= 1
    assert versions.pop("cpu_governor", "powersave")
    assert versions == {
        "videokd": videokd.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "platform": f"{platform.system()} {platform.machine()}",
        "threads": str(torch.get_num_threads()),
    }
    assert stamp["clocks"] is None or all(mhz > 0 for mhz in stamp["clocks"].values())


def test_name_and_clock_are_read_where_the_system_tells(monkeypatch, tmp_path):
    info, fastest = tmp_path / "cpuinfo", tmp_path / "cpuinfo_max_freq"
    info.write_text("model name\t: Fast One @ 3\ncpu MHz\t\t: 1000.5\n\ncpu MHz\t\t: 3000.5\n")
    fastest.write_text("3200000\n")
    (tmp_path / "scaling_governor").write_text("performance\n")
    monkeypatch.setattr(environment_module, "_CPU_INFO", info)
    monkeypatch.setattr(environment_module, "_CPU_FREQUENCY", tmp_path)
    stamp = environment("cpu")
    assert stamp["device"] == "cpu: Fast One @ 3"
    assert stamp["clocks"] == {"cpu_mhz": 2000.5, "cpu_max_mhz": 3200.0}
    assert stamp["versions"]["cpu_governor"] == "performance"


def test_a_silent_system_has_a_name_and_no_clocks(monkeypatch, tmp_path):
    monkeypatch.setattr(environment_module, "_CPU_INFO", tmp_path / "no")
    monkeypatch.setattr(environment_module, "_CPU_FREQUENCY", tmp_path / "no")
    assert cpu_name() == (platform.processor() or platform.machine())
    assert environment("cpu")["clocks"] is None


def test_a_gpu_is_stamped_with_what_nvidia_smi_says(monkeypatch, tmp_path):
    """A program of that name on the PATH answers as NVIDIA's does."""
    program = tmp_path / "nvidia-smi"
    program.write_text(
        f'#!/bin/sh\necho "$@" > {tmp_path}/asked\n'
        "echo 575.57.08, 1755, 2619, 1980, 2619, 700.00, Enabled\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "get_device_properties", lambda device: SimpleNamespace(uuid="ab-cd"))
    monkeypatch.setattr(cuda, "get_device_name", lambda device: "Some GPU")
    monkeypatch.setattr(cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr(torch.backends.cudnn, "version", lambda: 91000)
    stamp = environment("cuda")
    assert stamp["device"] == "cuda: Some GPU"
    assert stamp["clocks"] == {
        "gpu_sm_mhz": 1755.0, "gpu_mem_mhz": 2619.0, "gpu_sm_max_mhz": 1980.0,
        "gpu_mem_max_mhz": 2619.0,
    }  # fmt: skip
    told = {name: stamp["versions"][name] for name in ("driver", "power_limit_w", "cudnn")}
    assert told == {"driver": "575.57.08", "power_limit_w": "700.00", "cudnn": "91000"}
    assert stamp["versions"]["persistence_mode"] == "Enabled"
    assert stamp["versions"]["compute_capability"] == "9.0"
    assert "--id=GPU-ab-cd" in (tmp_path / "asked").read_text()


def test_clocks_that_a_gpu_does_not_tell_are_left_out():
    told = {"clocks.sm": "1980", "clocks.mem": "[N/A]", "clocks.max.sm": "1980"}
    assert environment_module._gpu_clocks_mhz(told) == {
        "gpu_sm_mhz": 1980.0,
        "gpu_sm_max_mhz": 1980.0,
    }


@pytest.fixture
def package_in_git(monkeypatch, tmp_path):
    """A repository with the file that stands for the package; returns a function that runs git."""
    if GIT is None:
        pytest.skip("needs git")
    package = tmp_path / "repo" / "videokd"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("one = 1\n")
    monkeypatch.setattr(videokd, "__file__", str(package / "__init__.py"))

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=n", "-c", "user.email=e@example.org"]
        done = subprocess.run(
            [GIT, *identity, *arguments], cwd=package, check=True, capture_output=True, text=True
        )
        return done.stdout.strip()

    git("init", "--quiet")
    return git


def test_the_commit_of_the_code_is_told_and_whether_it_was_changed(package_in_git, monkeypatch):
    git = package_in_git
    assert git_sha() is None, "not tracked: a package installed into some other repository"
    git("add", ".")
    git("commit", "--quiet", "-m", "one")
    sha = git("rev-parse", "HEAD")
    assert git_sha() == sha
    package = Path(videokd.__file__).parent
    (package.parent / "notes.txt").write_text("beside the package\n")
    (package / "untracked.txt").write_text("not part of it\n")
    assert git_sha() == sha
    monkeypatch.setenv("GIT_DIR", "/nowhere")
    assert git_sha() == sha
    (package / "__init__.py").write_text("one = 2\n")
    assert git_sha() == f"{sha}-dirty"


def test_without_git_there_is_no_commit(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    assert git_sha() is None


def test_a_tool_that_fails_or_hangs_says_nothing(monkeypatch):
    printed_by = environment_module._printed_by
    assert printed_by(["/nowhere/tool"]) is None
    assert printed_by([shutil.which("false") or "false"]) is None
    monkeypatch.setattr(environment_module, "_SECONDS", 0.05)
    assert printed_by([shutil.which("sleep") or "sleep", "5"]) is None
