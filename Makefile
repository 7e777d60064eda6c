# Every target sets up what it needs; `make help` lists them.
#
#   make PYTHON=python3.12 test     another interpreter (3.11 or newer)
#   make VENV=/elsewhere/venv test  another place for the virtual environment

PYTHON ?= python3
VENV   ?= .venv
PROMPT ?= a red house
OUT    ?= demo
PYTEST_FLAGS ?=

BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
LOWEST := .venv-lowest
TRIED  := .venv-tried
AUDIT  := .venv-audit
NOTEBOOKS = $(wildcard notebooks/*.ipynb)

# Two workers of one thread each beat one worker whose thread pools fight over the cores. Files stay
# whole, so that what a file starts, such as JupyterLab or a model, is started once. On a machine
# with a GPU models would load there in float16; what is stored and compared is of float32 on a CPU.
PYTEST := CUDA_VISIBLE_DEVICES= OMP_NUM_THREADS=1 $(BIN)/python -m pytest

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help demo test fuzz lint docs lab notebooks results benchmark-scenes benchmark-settings \
    benchmark-quality benchmark-recording benchmark-modulation benchmark-atlas benchmark-claims \
    benchmark-families benchmark-full-size benchmark-gpu benchmark-widgets card pictures animation \
    test-lowest wheel audit clean

help:  ## list the targets
	@sed -n 's/^\([a-z-]*\):.*##/\1:/p' $(MAKEFILE_LIST) | column -t -s ':' 2>/dev/null \
	    || sed -n 's/^\([a-z-]*\):.*## /\1  /p' $(MAKEFILE_LIST)

define check_python
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	    echo "$(PYTHON) is missing or older than 3.11: install a newer Python," \
	         "or name one, as in 'make PYTHON=python3.12 $(MAKECMDGOALS)'" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip, venv' || { \
	    echo "$(PYTHON) cannot make virtual environments: on Debian and Ubuntu," \
	         "'apt-get install python3-venv'" >&2; exit 1; }
endef

$(STAMP): pyproject.toml constraints/tested.txt
	$(check_python)
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -e '.[notebooks,test,lint,docs]' -c constraints/tested.txt
	@touch $@

demo: $(STAMP)  ## segment a scene from a prompt and a picture from a file, into demo/
	$(BIN)/emerdiff-probe segment docs/images/example.png --prompt "$(PROMPT)" \
	    --out $(OUT) --overwrite

lint: $(STAMP)  ## style, types and which room may import which
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

docs: $(STAMP)  ## the documentation site, build/docs/index.html; warnings are errors
	$(BIN)/python -m sphinx -W --keep-going -q -j 2 -c docs/site -d build/doctrees . build/docs

test: lint docs  ## lint, the site, all tests, and all notebooks against their stored outputs
	$(PYTEST) -n 2 --dist loadfile $(PYTEST_FLAGS)
ifneq ($(NOTEBOOKS),)
	PLOTLY_RENDERER=plotly_mimetype $(PYTEST) -n 2 --dist loadfile -p tests.conftest --nbval notebooks \
	    --nbval-sanitize-with notebooks/sanitize.cfg $(PYTEST_FLAGS)
endif

FUZZ_INPUTS ?= 1000

fuzz: $(STAMP)  ## many random inputs at every door (FUZZ_INPUTS=1000, FUZZ_SEED=0)
	FUZZ_INPUTS=$(FUZZ_INPUTS) $(PYTEST) tests/fuzz $(PYTEST_FLAGS)

# In a container one is root, which JupyterLab wants to be told.
lab: $(STAMP)  ## JupyterLab on the first notebook
	PLOTLY_RENDERER=plotly_mimetype $(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) notebooks/01_quickstart.ipynb

notebooks: $(STAMP)  ## run the notebooks and store their outputs
	CUDA_VISIBLE_DEVICES= $(BIN)/python notebooks/run.py $(NOTEBOOKS)

BENCHMARK = $(BIN)/python -m benchmarks

benchmark-scenes: $(STAMP)  ## how far colour, position and an untrained network get on the scenes
	$(BENCHMARK) scenes

benchmark-settings: $(STAMP)  ## settings of the method compared on validation scenes
	$(BENCHMARK) settings

benchmark-quality: $(STAMP)  ## EmerDiff against baselines, nulls and rivals on test scenes (hours)
	$(BENCHMARK) quality

benchmark-recording: $(STAMP)  ## what recording costs in time and memory, beside other ways
	$(BIN)/python -m pip install --quiet -e '.[benchmark]' -c constraints/tested.txt
	$(BENCHMARK) recording

benchmark-modulation: $(STAMP)  ## engines of modulated denoising: cost, and agreement with the literal one
	$(BENCHMARK) modulation --count 50 --full-size

benchmark-atlas: $(STAMP)  ## which layer and timestep of the bundled model knows what
	$(BENCHMARK) atlas --count 24

benchmark-families: $(STAMP)  ## what works in which family of models, on random weights
	$(BENCHMARK) families

benchmark-full-size: $(STAMP)  ## the method at the size of published models, by counting operations
	$(BENCHMARK) full-size

benchmark-gpu: $(STAMP)  ## the same measured on a GPU, with random weights; a trial without one
	$(BENCHMARK) gpu

# Short trainings, to see how far models differ; an interrupted one goes on.
SEEDS := build/seeds/1 build/seeds/2 build/seeds/3
$(SEEDS): build/seeds/%: | $(STAMP)
	$(BIN)/emerdiff-probe train --minutes 40 --seed $* --out $@

benchmark-claims: $(STAMP) $(SEEDS)  ## which of the paper's claims hold, on four models (hours)
	$(BIN)/emerdiff-probe claims --count 28 --out docs/results $(SEEDS:%=--model %)

benchmark-widgets: $(STAMP)  ## from a click to the changed picture, in JupyterLab
	$(BIN)/python -m tests.widgets.benchmark

card: $(STAMP)  ## the bundled model's card, with its curves and samples
	$(BENCHMARK) card

pictures: $(STAMP)  ## the pictures of the README
	$(BENCHMARK) pictures

animation: $(STAMP)  ## the README's moving picture of the correspondence explorer
	$(BIN)/python -m tests.widgets.animation

# All that is stored and depends on the weights. Unchanged parts are kept in build/ and go on.
results: benchmark-scenes benchmark-settings benchmark-quality benchmark-recording \
    benchmark-modulation benchmark-atlas benchmark-claims benchmark-families benchmark-full-size \
    benchmark-widgets card pictures animation notebooks  ## all stored results

test-lowest:  ## the tests with the oldest versions that pyproject.toml allows
	$(check_python)
	test -x $(LOWEST)/bin/python || $(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/python -m pip install --quiet -e '.[notebooks,test]' -c constraints/lowest.txt
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 --dist loadfile $(PYTEST_FLAGS)

wheel: $(STAMP)  ## dist/*.tar.gz and dist/*.whl, and the wheel tried in an environment of its own
	rm -rf dist $(TRIED)
	$(BIN)/python -m build --outdir dist .
	$(PYTHON) -m venv $(TRIED)
	$(TRIED)/bin/python -m pip install --quiet --no-deps dist/*.whl
	$(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' > \
	    "$$($(TRIED)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/tested.pth"
	cd $(TRIED) && CUDA_VISIBLE_DEVICES= bin/emerdiff-probe segment --prompt "$(PROMPT)" --masks 3 \
	    --engine jump --out tried && test -s tried/*/index.html
	cd $(TRIED) && bin/python -c \
	    'import sys, emerdiff_probe; assert emerdiff_probe.__file__.startswith(sys.prefix)'

audit:  ## known vulnerabilities of the tested versions
	$(check_python)
	test -x $(AUDIT)/bin/pip-audit || { $(PYTHON) -m venv $(AUDIT) \
	    && $(AUDIT)/bin/python -m pip install --quiet pip-audit; }
	$(AUDIT)/bin/pip-audit --no-deps --disable-pip --requirement constraints/tested.txt

clean:  ## remove what the other targets made, but for the virtual environments
	rm -rf build dist docs/reference/api $(OUT) .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name __pycache__ -type d -not -path './.venv*' -prune -exec rm -rf {} +
