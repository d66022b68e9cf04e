"""`VideoModel`: any network behind one interface, with taps declared by their geometry.

Letters: **N** clips, **T** frames, **S** crop side (px), **K** classes, **D** pooled features,
**C t h w** a tap's channels, steps in time and cells in space.
"""

from __future__ import annotations

import copy
from collections.abc import Collection, Iterator, Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from videokd.config import did_you_mean
from videokd.errors import ConfigError, first_line
from videokd.models.meta import on_meta
from videokd.models.taps import (
    Catch,
    Tap,
    as_ncthw,
    describe,
    module_at,
    pathway_ids,
    refuse_same_names,
    step_seconds,
)
from videokd.types import InputSpec, ModelOutput, TapOutput, TapShape

__all__ = ["Frozen", "NetworkParts", "Tap", "VideoModel", "step_seconds"]


class NetworkParts(NamedTuple):
    """A bare network and what `VideoModel` has to know of it."""

    network: nn.Module
    classifier: str
    """Dotted path of the final linear layer, or of a 1x1x1 convolution in its place."""
    taps: tuple[Tap, ...]
    """The family's own, by their usual names."""
    attention: str | None = None
    """Dotted path of the module that returns [N,t] weights over time, if there is one."""


class VideoModel(nn.Module):
    """A network that takes clips in [0, 1], normalises them itself and returns a `ModelOutput`.

    Taps are taken by forward hooks that are set here, once, at the moment they fire. A dry forward
    of a weightless twin on the meta device finds every fault of a tap before any work starts; it
    touches no weight, buffer or random state of the network.

    Args:
        network: takes [N,3,T,S,S] and returns logits [N,K]. With several pathways it offers
            `pathway_frame_ids(pathway)`: which of the T frames it sees, int64, or None for all.
        spec: the input that it was made for.
        num_classes: K.
        classifier: dotted path of the final linear layer (or a 1x1x1 convolution in its place);
            what enters it is `pooled`.
        taps: points whose features are returned.
        attention: dotted path of a module whose output is [N,t], weights over time.

    Raises:
        ConfigError: for an unknown module, one that fires other than once, a tap overwritten in
            place later, an output of another rank than its layout says, two taps of one name, and
            for a clip size or number of classes that the network does not take.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        network: nn.Module,
        *,
        spec: InputSpec,
        num_classes: int,
        classifier: str,
        taps: Sequence[Tap] = (),
        attention: str | None = None,
    ) -> None:
        super().__init__()
        self.network = network
        self.spec = spec
        self.num_classes = num_classes
        self.classifier = classifier
        self.taps = tuple(taps)
        self.attention = attention
        # Not persistent: the checkpoint holds the InputSpec itself.
        self.register_buffer("mean", torch.tensor(spec.mean).view(1, 3, 1, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(spec.std).view(1, 3, 1, 1, 1), persistent=False)
        refuse_same_names(self.taps)
        for tap in self.taps:
            pathway_ids(network, tap)  # refuses a pathway that is not there
        self._tap_catches = {tap.name: self._hook_tap(tap) for tap in self.taps}
        self._pooled_catch = self._hook_classifier()
        self._attention_catch = self._hook_attention()
        self.tap_shapes: dict[str, TapShape] = {}
        self.pooled_dim = 0
        self._learn_shapes()

    def forward(self, clips: Tensor, frame_seconds: Tensor | None = None) -> ModelOutput:
        """Run N clips.

        Args:
            clips: float [N,3,T,S,S], RGB in [0, 1].
            frame_seconds: [N,T], when each frame is presented; None counts frames as seconds.

        Returns:
            logits [N,K]; pooled [N,D], the mean over any further positions that the classifier
            saw; taps as [N,C,t,h,w] with the seconds of their t steps; attention [N,t] or None.
        """
        frame_seconds = _checked_seconds(clips, frame_seconds)
        catches = self._catches()
        for catch in catches:
            catch.open()
        try:
            logits = self._run(clips)
            return self._collect(logits, frame_seconds)
        finally:
            for catch in catches:
                catch.close()

    def without_taps(self) -> VideoModel:
        """A copy that keeps no taps: what is deployed, timed and counted."""
        bare = copy.deepcopy(self)
        bare.keep_taps(())
        return bare

    def bare_network(self) -> nn.Module:
        """A copy of the network alone, without any hook of this class: normalised clips
        [N,3,T,S,S] -> logits [N,K]."""
        bare = self.without_taps()
        for catch in bare._catches():
            catch.remove()
        return bare.network

    def keep_taps(self, names: Collection[str]) -> None:
        """Drop all taps but these; what no loss compares need not be kept through a forward."""
        for name in names:
            if name not in self._tap_catches:
                raise ConfigError(
                    f"no tap is named {name!r}; {did_you_mean(name, list(self._tap_catches))}"
                )
        for name in set(self._tap_catches) - set(names):
            self._tap_catches.pop(name).remove()
        self.taps = tuple(tap for tap in self.taps if tap.name in self._tap_catches)
        # A new dict: others may hold the old one.
        self.tap_shapes = {tap.name: self.tap_shapes[tap.name] for tap in self.taps}

    def classifier_parameters(self) -> Iterator[nn.Parameter]:
        """Weights of the final linear layer: what a new set of classes replaces."""
        return self.network.get_submodule(self.classifier).parameters()

    def _run(self, clips: Tensor) -> Tensor:
        # The buffers follow the weights to another dtype; the clips follow the buffers.
        return self.network((clips.to(self.mean.dtype) - self.mean) / self.std)

    def _collect(self, logits: Tensor, frame_seconds: Tensor) -> ModelOutput:
        num_clips = logits.shape[0]
        taps: dict[str, TapOutput] = {}
        for tap in self.taps:
            features = as_ncthw(self._tap_catches[tap.name].tensor, tap, num_clips)
            seconds = frame_seconds
            if (ids := pathway_ids(self.network, tap)) is not None:
                seconds = frame_seconds.index_select(1, ids)
            taps[tap.name] = TapOutput(features, step_seconds(seconds, features.shape[2]))
        attention = self._attention_catch.tensor if self._attention_catch else None
        return ModelOutput(
            logits=logits,
            pooled=self._pooled(num_clips),
            taps=taps,
            attention=attention,
            attention_seconds=(
                None if attention is None else step_seconds(frame_seconds, attention.shape[1])
            ),
        )

    def _pooled(self, num_clips: int) -> Tensor:
        """What the classifier saw, [N,D]."""
        seen = self._pooled_catch.tensor
        if isinstance(self.network.get_submodule(self.classifier), nn.Conv3d):
            return seen.mean((2, 3, 4))
        return seen.reshape(num_clips, -1, seen.shape[-1]).mean(1)

    def _catches(self) -> list[Catch]:
        always = [self._pooled_catch, *([self._attention_catch] if self._attention_catch else [])]
        return [*always, *self._tap_catches.values()]

    def _hook_tap(self, tap: Tap) -> Catch:
        module = module_at(self.network, tap.module, what=f"tap {tap.name!r}")
        return Catch(f"tap {tap.name!r} ({tap.module})", tap.output).hook_output_of(module)

    def _hook_classifier(self) -> Catch:
        module = module_at(self.network, self.classifier, what="classifier")
        is_pointwise = isinstance(module, nn.Conv3d) and module.kernel_size == (1, 1, 1)
        if not isinstance(module, nn.Linear) and not is_pointwise:
            raise ConfigError(
                f"classifier {self.classifier!r} is a {type(module).__name__}; "
                "name the final nn.Linear of the network"
            )
        return Catch(f"classifier ({self.classifier})").hook_input_of(module)

    def _hook_attention(self) -> Catch | None:
        if self.attention is None:
            return None
        module = module_at(self.network, self.attention, what="attention")
        return Catch(f"attention ({self.attention})").hook_output_of(module)

    @torch.inference_mode(False)  # inference tensors do not count their versions
    def _learn_shapes(self) -> None:
        """The dry forward, in eval and in training mode: in-place faults may hide in either."""
        twin = on_meta(self)
        num_clips, num_frames, side = 2, self.spec.num_frames, self.spec.crop_px
        for training in (False, True):
            twin.train(training)
            catches = twin._catches()
            for catch in catches:
                catch.open()
            clips = torch.zeros(num_clips, 3, num_frames, side, side, device="meta")
            with torch.random.fork_rng(devices=[]), torch.no_grad():
                logits = _run_dry(twin, clips)
            for catch in catches:
                catch.refuse_faults()
            _check_logits(logits, num_clips, self.num_classes)
            self._check_attention(twin, num_clips)
            for tap in self.taps:
                features = as_ncthw(twin._tap_catches[tap.name].tensor, tap, num_clips)
                self.tap_shapes[tap.name] = TapShape(*features.shape[1:])
            self.pooled_dim = int(twin._pooled(num_clips).shape[-1])

    def _check_attention(self, twin: VideoModel, num_clips: int) -> None:
        if twin._attention_catch is None:
            return
        shape = list(twin._attention_catch.tensor.shape)
        if len(shape) != 2 or shape[0] != num_clips:
            raise ConfigError(
                f"attention ({self.attention}) returns {shape}; weights over time are [N,t]"
            )


class Frozen(nn.Module):
    """A teacher: in eval mode whatever the caller does, without gradients, under `no_grad`.

    `no_grad` rather than `inference_mode`, whose outputs a hint cannot differentiate against.
    """

    def __init__(self, model: VideoModel) -> None:
        super().__init__()
        self.model = model.requires_grad_(False)
        self.eval()

    def train(self, mode: bool = True) -> Frozen:  # noqa: ARG002 - a frozen model never trains
        """Stay in eval mode, also when a parent is put into training mode."""
        super().train(False)
        return self

    @torch.no_grad()
    def forward(self, clips: Tensor, frame_seconds: Tensor | None = None) -> ModelOutput:
        """As `VideoModel.forward`; nothing in the result requires a gradient."""
        return self.model(clips, frame_seconds)

    @property
    def spec(self) -> InputSpec:
        """The input that the model was made for."""
        return self.model.spec

    @property
    def num_classes(self) -> int:
        """K."""
        return self.model.num_classes

    @property
    def tap_shapes(self) -> dict[str, TapShape]:
        """Tap name -> (C, t, h, w)."""
        return self.model.tap_shapes

    @property
    def pooled_dim(self) -> int:
        """D."""
        return self.model.pooled_dim


def _checked_seconds(clips: Tensor, frame_seconds: Tensor | None) -> Tensor:
    if clips.ndim != 5 or clips.shape[1] != 3 or not clips.is_floating_point():
        raise ValueError(f"clips must be float [N,3,T,S,S], not {clips.dtype} {list(clips.shape)}")
    num_clips, num_frames = clips.shape[0], clips.shape[2]
    if frame_seconds is None:
        frames = torch.arange(num_frames, dtype=torch.float32, device=clips.device)
        return frames.expand(num_clips, num_frames)
    if frame_seconds.shape != (num_clips, num_frames):
        raise ValueError(
            f"frame_seconds must be {[num_clips, num_frames]} as the clips, "
            f"not {list(frame_seconds.shape)}"
        )
    return frame_seconds


def _run_dry(twin: VideoModel, clips: Tensor) -> Tensor:
    try:
        return twin._run(clips)
    except ConfigError:
        raise
    except Exception as error:  # whatever a network of any origin says to a clip it cannot take
        size = "x".join(str(n) for n in clips.shape[2:])
        raise ConfigError(
            f"the network does not take clips of {size} (frames x px x px): {first_line(error)}"
        ) from error


def _check_logits(logits: Any, num_clips: int, num_classes: int) -> None:
    if not isinstance(logits, Tensor) or logits.shape != (num_clips, num_classes):
        raise ConfigError(
            f"the network returns {describe(logits)} for {num_clips} clips; "
            f"logits of {num_classes} classes are {[num_clips, num_classes]}"
        )
