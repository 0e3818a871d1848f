# make demo   a tiny SViTT learns to search clips made on the spot
# make test   all tests
PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
READY = $(VENV)/ready

.PHONY: demo test
.DELETE_ON_ERROR:

$(READY): requirements.txt setup.cfg
	$(PYTHON) -m venv $(VENV)
	$(VENV)/bin/pip install --quiet "$$(grep ^torch== requirements.txt)"
	$(VENV)/bin/pip install --quiet --requirement requirements.txt
	$(VENV)/bin/pip install --quiet --no-deps --editable .
	touch $@

demo: $(READY)
	$(VENV)/bin/python examples/make_demo_dataset.py $(DEMO)/data
	$(VENV)/bin/python examples/make_tiny_model.py $(DEMO)/data/train.json $(DEMO)/model
	$(VENV)/bin/python run_retrieval.py --model_name_or_path $(DEMO)/model --video_dir $(DEMO)/data/videos \
	    --train_file $(DEMO)/data/train.json --test_file $(DEMO)/data/test.json --output_dir $(DEMO)/out

test: $(READY)
	$(VENV)/bin/python -m pytest -q
