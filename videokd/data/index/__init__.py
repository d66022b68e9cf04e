"""The index: a CSV with one row a video, made by a scan, and the class names beside it.

`videos.csv` has its class names in `videos.classes.txt`, one a line in the order of their indices,
and after a build the files that could not be read in `videos.failed.csv` and what was noticed on
readable ones in `videos.notes.csv`. A big one is also kept as columns in `videos.cache.arrow`,
which may be removed at any time: the CSV is the truth. Nothing here imports torch.
"""

from videokd.data.index.building import build_index, write_index
from videokd.data.index.reading import Index, classes_path, read_classes, read_index
from videokd.data.index.rows import COLUMNS

__all__ = [
    "COLUMNS",
    "Index",
    "build_index",
    "classes_path",
    "read_classes",
    "read_index",
    "write_index",
]
