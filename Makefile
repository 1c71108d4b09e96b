# make demo   set up, animate the example portrait with the example speech, print where the video is
# make test   set up, run the tests
# make lint   format, lint and types      make bench   measure this machine      make clean   remove what make made
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.joyhallo-stamp
DEMO := outputs/demo.mp4

.PHONY: setup demo test lint bench clean
.DEFAULT_GOAL := demo

setup: $(STAMP)

# torch first and by its exact version: another version, or a range, can bring gigabytes of CUDA to a machine without a GPU
$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
	  || { echo "JoyHallo needs Python 3.11 or newer; $(PYTHON) is older. Name another: make PYTHON=python3.12" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt -e '.[dev,labels,serve,train,vocals]'
	touch $(STAMP)

demo: setup
	mkdir -p outputs
	$(BIN)/joyhallo animate examples/portrait.png examples/speech_zh.wav -o $(DEMO) --overwrite

test: setup
	$(BIN)/python -m pytest -n 2 $(TESTS)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pyright --pythonpath $(BIN)/python

bench: setup
	$(BIN)/joyhallo bench

clean:
	rm -rf $(VENV) outputs build dist
