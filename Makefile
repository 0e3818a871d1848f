# make demo        trains a tiny SViTT to search clips made on the spot: 4 minutes on two cores
# make demo-qa     trains another to answer questions about them: half an hour on two cores
# make tiny        refreshes examples/tiny, the models and clips of the README, from what these two wrote
# make check       lint and test
# make test        the contract and unit tests: about 5 minutes on two cores
# make test-all    these and the slow ones, of several processes, kills and full-size models
# make test-matrix installs this package unlocked, with the newest and the oldest dependencies, and reads a video with each
# make test-ecosystem runs the snippets of docs/ecosystem.md: Sentence Transformers, PEFT, ONNX
# make lint        checks style, layout and types
# make lock        pins everything that requirements.txt needs, with hashes; make lock-check fails if that is overdue
# make bench       speed and memory, as JSON in $(BENCH)
# make docs        writes the API reference to site/
# make dist        builds the wheel and the source archive in dist/
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BENCH ?= benchmark_results
READY = $(VENV)/ready
UV = $(VENV)/bin/uv
# Each kind of machine (CPU, CUDA, ROCm) has its own build of torch, which brings these along: no lock can hold their hashes.
TORCH = torch sympy mpmath networkx
LOCK = $(UV) pip compile --quiet --no-header --no-annotate --python-version 3.11 --override configs/no_torch.txt \
    $(TORCH:%=--no-emit-package %) --universal --generate-hashes requirements.txt --output-file
CHECK_PYTHON = $(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and \
    'Python 3.11 or later is needed, $(PYTHON) is ' + sys.version.split()[0] + '; make PYTHON=python3.11 takes another.' or 0)"

.PHONY: demo demo-qa tiny check test test-all test-matrix test-ecosystem bench lint lock lock-check docs dist
.DELETE_ON_ERROR:

$(READY): requirements.lock setup.cfg
	@$(CHECK_PYTHON)
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "$$(grep ^torch== requirements.txt)" "$$(grep ^uv== requirements.txt)"
	$(UV) pip install --quiet --python $(VENV) --require-hashes --no-deps --requirement requirements.lock
	$(VENV)/bin/pip install --quiet --no-deps --editable .
	touch $@

# One thread suits a model this small; a worker process decodes on the other core.
TRAINING = --video_dir $(DEMO)/data/videos --no_augment --dataloader_num_workers 1 --learning_rate 1e-3 \
    --larger_lr 1e-2 --larger_lr_names relative_position_bias_table --warmup_epochs 1 --min_lr_multi 0.01
RUN = OMP_NUM_THREADS=1 $(VENV)/bin/python

demo: $(READY)
	$(VENV)/bin/python examples/make_demo_dataset.py $(DEMO)/data
	$(VENV)/bin/python examples/make_tiny_model.py $(DEMO)/data/train.json $(DEMO)/model
	$(RUN) run_retrieval.py --model_name_or_path $(DEMO)/model --output_dir $(DEMO)/out $(TRAINING) \
	    --train_file $(DEMO)/data/train.json --validation_file $(DEMO)/data/val.json --test_file $(DEMO)/data/test.json \
	    --match_by caption --per_device_train_batch_size 32 --num_train_epochs 12

# The answer decoder starts from the fusion layers, so pre-training comes first.
demo-qa: $(READY)
	$(VENV)/bin/python examples/make_demo_dataset.py $(DEMO)/data
	$(VENV)/bin/python examples/make_tiny_model.py $(DEMO)/data/train.json $(DEMO)/data/train_questions.json $(DEMO)/qa_model
	$(RUN) run_pretraining.py --model_name_or_path $(DEMO)/qa_model --output_dir $(DEMO)/pretrained $(TRAINING) \
	    --train_file $(DEMO)/data/train.json --match_by caption --max_grad_norm 5 --num_train_epochs 36
	$(RUN) run_videoqa.py --model_name_or_path $(DEMO)/pretrained --output_dir $(DEMO)/qa_out $(TRAINING) \
	    --train_file $(DEMO)/data/train_questions.json --validation_file $(DEMO)/data/val_questions.json \
	    --test_file $(DEMO)/data/test_questions.json --per_device_train_batch_size 64 --max_grad_norm 5 --num_train_epochs 24

tiny: $(READY)
	$(VENV)/bin/python examples/make_tiny_folder.py $(DEMO) examples/tiny

check: lint test

# glibc keeps freed memory: some machines take long to give it again.
PYTEST = OMP_NUM_THREADS=1 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_MMAP_MAX_=0 \
    $(VENV)/bin/python -m pytest -q -n 2 --dist loadfile

test: $(READY)
	$(PYTEST)

test-all: $(READY)
	$(PYTEST) -m ""

# Users install without the lock. TORCH_oldest=torch==2.13.0 reuses a build that is already here.
TORCH_newest ?= $(shell grep ^torch== requirements.txt)
TORCH_oldest ?= torch==2.8.0
RESOLUTION_newest = highest
RESOLUTION_oldest = lowest-direct

test-matrix: test-newest test-oldest

test-newest test-oldest: test-%: $(READY)
	$(PYTHON) -m venv --clear $(VENV)-$*
	$(VENV)-$*/bin/pip install --quiet "$(TORCH_$*)"
	$(UV) pip install --quiet --python $(VENV)-$* --resolution $(RESOLUTION_$*) . "$(TORCH_$*)"
	$(VENV)-$*/bin/python examples/make_demo_dataset.py $(VENV)-$*/data --train 2 --val 0 --test 0
	cd $(VENV)-$* && bin/python -c "import svitt.search" && bin/svitt check --video_dir data/videos

# Libraries that our models are used with, as new as there are: too large, and too new, for every machine that tests.
test-ecosystem: $(READY)
	$(PYTHON) -m venv --clear $(VENV)-ecosystem
	$(VENV)-ecosystem/bin/pip install --quiet "$(TORCH_newest)"
	$(UV) pip install --quiet --python $(VENV)-ecosystem "$(TORCH_newest)" --editable ".[test]" sentence-transformers \
	    mteb onnx onnxruntime onnxscript
	$(VENV)-ecosystem/bin/python -m pytest -q -m "" tests/unit/test_ecosystem.py

bench: $(READY)
	$(VENV)/bin/python benchmarks/encoder.py --frames 4 8 16 --rounds 3 --output $(BENCH)/encoder.json
	$(VENV)/bin/python benchmarks/encoder.py --backward --memory --frames 4 8 --rounds 2 --contestants dense sparse \
	    --output $(BENCH)/encoder_backward.json
	$(VENV)/bin/python benchmarks/encoder.py --rerank 128 --frames 4 --rounds 3 --output $(BENCH)/reranking.json

lint: $(READY)
	$(VENV)/bin/ruff check
	$(VENV)/bin/ruff format --check
	mkdir -p $(VENV)/types
	ln -sfn $(CURDIR) $(VENV)/types/svitt  # a folder with the package's name, as mypy does not follow editable installs
	MYPYPATH=$(VENV)/types $(VENV)/bin/mypy

lock: $(READY)
	$(LOCK) requirements.lock

lock-check: $(READY)
	cp requirements.lock $(VENV)/requirements.lock
	$(LOCK) $(VENV)/requirements.lock
	diff requirements.lock $(VENV)/requirements.lock

docs: $(READY)
	$(VENV)/bin/python docs/build_reference.py site

dist: $(READY)
	$(VENV)/bin/python -m build
