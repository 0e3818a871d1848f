# make demo        a tiny SViTT learns to search clips made on the spot
# make test        all tests but the long ones
# make test-long   tests of minutes each
# make bench       speed and memory, JSON in $(BENCH): under a quarter of an hour on two cores
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
BENCH ?= benchmark_results
READY = $(VENV)/ready

.PHONY: demo test test-long bench
.DELETE_ON_ERROR:

$(READY): requirements.txt setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "$$(grep ^torch== requirements.txt)"
	$(VENV)/bin/pip install --quiet --requirement requirements.txt
	$(VENV)/bin/pip install --quiet --no-deps --editable .
	touch $@

# One thread suits a model this small; a worker process decodes on the other core.
demo: $(READY)
	$(VENV)/bin/python examples/make_demo_dataset.py $(DEMO)/data
	$(VENV)/bin/python examples/make_tiny_model.py $(DEMO)/data/train.json $(DEMO)/model
	OMP_NUM_THREADS=1 $(VENV)/bin/python run_retrieval.py --model_name_or_path $(DEMO)/model --video_dir $(DEMO)/data/videos \
	    --train_file $(DEMO)/data/train.json --validation_file $(DEMO)/data/val.json \
	    --test_file $(DEMO)/data/test.json --output_dir $(DEMO)/out \
	    --match_by caption --no_augment --num_workers 1 --train_batch_size 32 --num_train_epochs 12 \
	    --learning_rate 1e-3 --larger_lr 1e-2 --larger_lr_names relative_position_bias_table \
	    --warmup_epochs 1 --min_lr_multi 0.01

test: $(READY)
	$(VENV)/bin/python -m pytest -q

test-long: $(READY)
	$(VENV)/bin/python -m pytest -q -s -m long

bench: $(READY)
	$(VENV)/bin/python benchmarks/attention.py --frames 4 8 16 --rounds 3 --output $(BENCH)/attention.json
	$(VENV)/bin/python benchmarks/encoder.py --frames 4 8 --rounds 3 --output $(BENCH)/encoder.json
	$(VENV)/bin/python benchmarks/encoder.py --frames 16 --rounds 2 --contestants edges nodes sparse \
	    --output $(BENCH)/encoder_16.json
	$(VENV)/bin/python benchmarks/encoder.py --backward --frames 4 8 --rounds 2 --contestants sparse \
	    --output $(BENCH)/encoder_backward.json
	$(VENV)/bin/python benchmarks/training_step.py --batch_size 2 --rounds 2 --output $(BENCH)/training_step.json
	$(VENV)/bin/python benchmarks/reranking.py --videos 2 --rounds 3 --output $(BENCH)/reranking.json
	$(VENV)/bin/python benchmarks/answering.py --memory --rounds 3 --output $(BENCH)/answering.json
	$(VENV)/bin/python benchmarks/scaling.py --frames 4 8 16 32 --max_dense_frames 16 --rounds 2 \
	    --output $(BENCH)/scaling.json
