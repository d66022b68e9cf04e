"""The data room: from files on disk to a ClipBatch."""
