# make demo    a look into the published networks, then both trainings in small and all pictures,
#              in minutes, without a GPU
# make full    the published experiment from nothing, for a GPU; GAN_EPOCHS=200 trains the GAN
#              for twice as long
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
GAN_EPOCHS ?= 100

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

full: $(INSTALLED)
	python train_discriminator.py --dataset cifar10
	python train_gan.py --dataset cifar10 --epochs $(GAN_EPOCHS) --batch_size 128 \
		--evaluate_every 20 --save_every_epochs 10
	python evaluate_gan.py --output_dir results/evaluation
	python visualization.py --output_dir results/visualization
	python publish.py output/baseline results/baseline
	python publish.py output/gan results/gan --sample_epochs 0 1 20 $(GAN_EPOCHS)
	python report.py --visualization results/visualization --evaluation results/evaluation

test: $(INSTALLED)
	python -m pytest

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
