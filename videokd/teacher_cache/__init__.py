"""A teacher's outputs on disk: written once for every draw, read by any number of students."""
