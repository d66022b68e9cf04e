PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed

.PHONY: demo test test-slow lint browser ffmpeg clean

demo: $(INSTALLED)
	$(BIN)/videokd demo

# A process a core, up to four; a file's tests stay together, for what they share.
test: $(INSTALLED) lint browser ffmpeg
	$(BIN)/python -m pytest --numprocesses logical --maxprocesses 4 --dist loadfile

test-slow: $(INSTALLED)
	$(BIN)/python -m pytest -m slow

lint: $(INSTALLED)
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

# The report's page is tested in a real browser. Where a missing one cannot be installed, those tests
# say so and skip, or fail where CI is set.
browser:
	@if command -v chromium || command -v chromium-browser || command -v google-chrome; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update -qq && \
		apt-get install -qq -y --no-install-recommends chromium; then :; \
	else echo "no chromium: install it (apt-get install chromium) to test the report's page"; \
	fi >&2

# One of the readers, torchcodec, finds FFmpeg's libraries on the machine; without them its tests skip.
ffmpeg:
	@if command -v ffmpeg; then :; \
	elif [ "$$(id -u)" = 0 ] && command -v apt-get && apt-get update -qq && \
		apt-get install -qq -y --no-install-recommends ffmpeg; then :; \
	else echo "no ffmpeg: install it (apt-get install ffmpeg) to test the reader torchcodec"; \
	fi >&2

$(INSTALLED): pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
