"""The model room: networks that take clips and return a ModelOutput."""
