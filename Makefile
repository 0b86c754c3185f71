# make demo    a look into the published networks, then both trainings in small and all pictures,
#              in minutes, without a GPU
# make full    the whole experiment from nothing into results/, for a GPU; stopped, the same
#              command goes on. GAN_EPOCHS=100 is the published run; TRAIN_FLAGS go to both trainings
# make test    the default test suite
# make lint    style
# make data    download and verify CIFAR-10, draw a preview
# make bench   speed against the plain recipe and the machine's limit
#
# The packages go to .venv; VENV=/elsewhere takes or makes another one.

VENV ?= .venv
PYTHON ?= python3
INSTALLED := $(VENV)/.installed
DEMO := output/demo
FULL := output/full
GAN_EPOCHS ?= 200
TRAIN_FLAGS ?=

# So that the commands below are the ones to type, once the venv is active.
export PATH := $(abspath $(VENV))/bin:$(PATH)

.PHONY: demo full test lint data bench install

demo: $(INSTALLED)
	python visualization.py --discriminator_without_G results/baseline \
		--discriminator_with_G results/gan --max_classification_output --output_dir $(DEMO)/published
	python train_discriminator.py --width 32 --epochs 4 --hole 0 --limit_train 20000 \
		--output_dir $(DEMO)/baseline
	python train_gan.py --width 32 --epochs 5 --ema_decay 0.99 --limit_train 20000 \
		--output_dir $(DEMO)/gan
	python visualization.py --discriminator_without_G $(DEMO)/baseline \
		--discriminator_with_G $(DEMO)/gan --output_dir $(DEMO)/visualization
	python report.py --baseline $(DEMO)/baseline --gan $(DEMO)/gan \
		--visualization $(DEMO)/visualization --output $(DEMO)/report.html
	@echo
	@echo "Open these pictures:"
	@ls $(DEMO)/published/*.png
	@ls $(DEMO)/gan/samples/*.png | tail -1
	@ls $(DEMO)/*/curves.png $(DEMO)/visualization/*.png
	@echo "or all on one page: $(DEMO)/report.html"

# Each stage leaves a file behind, by which make knows what is done. A training goes on by itself.
full: $(FULL)/visualized $(FULL)/evaluated
	cp $(FULL)/evaluation/evaluation.json results/evaluation/
	cd results/visualization && for name in *; do cp $(abspath $(FULL))/visualization/$$name .; done
	python report.py --baseline $(FULL)/baseline --gan $(FULL)/gan --evaluation $(FULL)/evaluation \
		--visualization $(FULL)/visualization --output $(FULL)/report.html

$(FULL)/baseline/summary.json: | $(INSTALLED)
	python train_discriminator.py --dataset cifar10 $(TRAIN_FLAGS) --output_dir $(@D)

$(FULL)/gan/summary.json: $(FULL)/baseline/summary.json
	python train_gan.py --dataset cifar10 --epochs $(GAN_EPOCHS) --batch_size 128 \
		--evaluate_every 20 --save_every_epochs 10 $(TRAIN_FLAGS) \
		--judge $(<D) --output_dir $(@D)

$(FULL)/published: $(FULL)/gan/summary.json
	python publish.py $(FULL)/baseline results/baseline
	python publish.py $(FULL)/gan results/gan --sample_epochs 0 1 20 $(GAN_EPOCHS)
	touch $@

$(FULL)/evaluated: $(FULL)/published
	python evaluate_gan.py --generator results/gan --judge results/baseline \
		--output_dir $(FULL)/evaluation
	touch $@

$(FULL)/visualized: $(FULL)/published
	python visualization.py --discriminator_without_G results/baseline \
		--discriminator_with_G results/gan --output_dir $(FULL)/visualization
	touch $@

# Two at a time, with one thread each: most tests wait for one core.
test: $(INSTALLED)
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED)
	ruff check .
	ruff format --check .

data: $(INSTALLED)
	python data_tools.py

bench: $(INSTALLED)
	python benchmarks/throughput.py

install: $(INSTALLED)

$(INSTALLED): requirements.txt
	test -x $(VENV)/bin/python || $(PYTHON) -m venv $(VENV)
	$(VENV)/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt
	touch $@
