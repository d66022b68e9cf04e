"""What people say about videos, as they publish it: files and folders -> `Annotation`s.

Nothing here opens a video. Every fault is named by its file and line. Nothing imports torch.
"""

from videokd.data.annotations.annotation import (
    MEMBERSHIP_SEPARATOR,
    Absent,
    Annotation,
    Annotations,
    absolute,
    default_classes,
)
from videokd.data.annotations.files import ClassFile, read_class_file, read_rows
from videokd.data.annotations.folder import SPLIT_FOLDERS, VIDEO_SUFFIXES, read_folder
from videokd.data.annotations.hmdb51 import read_hmdb51
from videokd.data.annotations.kinetics import read_kinetics
from videokd.data.annotations.lists import CSV_COLUMNS, read_csv, read_list, read_lists
from videokd.data.annotations.mmaction2 import read_mmaction2
from videokd.data.annotations.something import read_something, read_something_lists
from videokd.data.annotations.ucf101 import read_ucf101

__all__ = [
    "CSV_COLUMNS",
    "MEMBERSHIP_SEPARATOR",
    "SPLIT_FOLDERS",
    "VIDEO_SUFFIXES",
    "Absent",
    "Annotation",
    "Annotations",
    "ClassFile",
    "absolute",
    "default_classes",
    "read_class_file",
    "read_csv",
    "read_folder",
    "read_hmdb51",
    "read_kinetics",
    "read_list",
    "read_lists",
    "read_mmaction2",
    "read_rows",
    "read_something",
    "read_something_lists",
    "read_ucf101",
]
