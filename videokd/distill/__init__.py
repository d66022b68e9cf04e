"""The distillation room: losses on tensors; no network and no video is known here."""
