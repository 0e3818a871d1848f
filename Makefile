# make demo        a tiny SViTT learns to search clips made on the spot
# make test        all tests but the long ones
# make test-long   tests of minutes each
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
READY = $(VENV)/ready

.PHONY: demo test test-long
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
