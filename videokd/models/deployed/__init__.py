"""The deployed form of a network: what is shipped, timed and counted."""

from videokd.models.deployed.compiled import compiled
from videokd.models.deployed.form import Deployed, deployed

__all__ = ["Deployed", "compiled", "deployed"]
