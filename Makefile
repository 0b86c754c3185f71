# make demo    figures of the published networks, then small trainings of both networks and their
#              figures; minutes without a GPU
# make full    the whole experiment into results/, for a GPU; the same command resumes a stopped
#              one. TRAIN_FLAGS are added to all trainings
# make rehearsal   the same in minutes, with networks of width 12, into output/rehearsal
# make ladder  control networks, which differ in the critic's loss. Trains those that
#              $(LADDER) lacks, hours each on a CPU; the same command resumes
# make test    the default test suite
# make lint    style
# make explore one HTML page to explore both networks in the browser
# make data    download and verify CIFAR-10, plot a preview
# make bench   speed against a plain implementation
# make tutorial  run docs/tutorial.md as a notebook, docs/tutorial.ipynb
# make tables  update the tables in README.md, docs/ and benchmarks/ from results/
#
# Packages are installed in .venv or VENV=FOLDER by the first target that needs them.

# make 3.81 on macOS exports PATH only if SHELL is set.
SHELL := /bin/bash

VENV ?= .venv
PYTHON ?= python3
INSTALLED := $(VENV)/.installed
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
NEW_ENOUGH := import sys; sys.version_info < (3, 10) and \
	sys.exit("Python 3.10 or newer is required: make PYTHON=python3.12")
# A venv whose Python was removed is created again.
CLEAR := $(if $(wildcard $(VENV)/pyvenv.cfg $(VENV)/.installed),--clear)
$(shell $(VENV)/bin/python -c pass 2> /dev/null || rm -f $(VENV)/.installed*)
# The CPU build of PyTorch takes 0.2 GB, the CUDA build 2.5. The CPU build is tried first on Linux
# without an NVIDIA driver, unless a batch system may start jobs on nodes with GPUs.
GPU_OR_BATCH := $(wildcard /proc/driver/nvidia /dev/nvidiactl /dev/dxg)
GPU_OR_BATCH += $(shell command -v sbatch qsub bsub)
ifeq ($(shell uname)$(strip $(GPU_OR_BATCH)),Linux)
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
endif
TORCH := $(shell grep -E '^torch(vision)?>' requirements.txt | sed "s/.*/'&'/")
# `make install TORCH_INDEX=URL` replaces the installed build.
ifeq ($(origin TORCH_INDEX)$(MAKECMDGOALS),command lineinstall)
INSTALL_TORCH = $(PIP_INSTALL) --force-reinstall --index-url $(TORCH_INDEX) $(TORCH)
$(INSTALLED): force
else ifneq ($(TORCH_INDEX),)
# Without pip's configuration: another index named there may have another build of PyTorch.
INSTALL_TORCH = @$(VENV)/bin/python -c 'import torch' 2> /dev/null || { PIP_CONFIG_FILE=/dev/null \
	$(PIP_INSTALL) --isolated --index-url $(TORCH_INDEX) --timeout 5 --retries 0 $(TORCH) \
	2> /dev/null && echo "PyTorch from $(TORCH_INDEX). For the CUDA build:" \
	"make install TORCH_INDEX=https://pypi.org/simple"; } \
	|| echo "PyTorch: default build, since $(TORCH_INDEX) cannot be used"
endif
DEMO := output/demo
FULL := output/full
RESULTS := results
GAN_EPOCHS := 100
TRAIN_FLAGS :=
SCORES := --inception

.DEFAULT_GOAL := demo

# With this PATH the commands below are those that a user types in the active venv.
export PATH := $(abspath $(VENV))/bin:$(PATH)

ifndef DEMO_HALVES
.NOTPARALLEL:
endif
.PHONY: force demo demo_published demo_classifier demo_gan full ladder findings rehearsal settings test lint
.PHONY: explore data bench tables tutorial install

# The GAN trains in parallel with the rest, each with half of the cores, since small networks gain
# little from more threads. The pipes disable the progress bars, which would share one terminal.
# Nothing is downloaded: CIFAR-10 is used if it is on the disk.
DEMO_DATA := $(if $(wildcard $(addprefix $(or $(CIFAR10_DIR),data)/,cifar-10-* data_batch_1 \
	train-*.parquet plain_text/train-*.parquet)),cifar10,shapes)
DEMO_TRAINING := --dataset $(DEMO_DATA) --width 32 --limit_test 1000
demo_%: export OMP_NUM_THREADS = $(shell echo $$((($$(getconf _NPROCESSORS_ONLN) + 1) / 2)))
demo_published:
	@echo "demo 1/4: images that maximize a class (about 40 s)"
	@set -o pipefail; python visualization.py --discriminator_without_G results/baseline \
		--discriminator_with_G results/gan --max_classification_output --steps 40 \
		--output_dir $(DEMO)/published 2>&1 | cat

demo_classifier: demo_published
	@echo "demo 2/4: a classifier on $(DEMO_DATA) (about 15 s)"
	@set -o pipefail; python train_discriminator.py $(DEMO_TRAINING) --limit_train 14000 \
		--epochs 1 --cutout 0 --log_every_steps 20 --output_dir $(DEMO)/baseline 2>&1 | cat

demo_gan:
	@echo "demo 3/4: at the same time, a GAN on $(DEMO_DATA) (about 100 s)"
	@set -o pipefail; python train_gan.py $(DEMO_TRAINING) --limit_train 7000 \
		--recipe relativistic --epochs 4 --latent_dim 50 --lr 0.005 --muon_lr 0.04 \
		--g_class_weight 2 --ema_decay 0.99 --output_dir $(DEMO)/gan 2>&1 | cat

demo: $(INSTALLED)
	@$(MAKE) --no-print-directory --jobs=2 DEMO_HALVES=yes demo_gan demo_classifier
	@echo "demo 4/4: figures of both networks, and the report (about a minute)"
	@python visualization.py --discriminator_without_G $(DEMO)/baseline --limit_test 500 \
		--discriminator_with_G $(DEMO)/gan --study_images 20 --layers 4 8 --steps 80 \
		--output_dir $(DEMO)/visualization
	@python report.py --baseline $(DEMO)/baseline --gan $(DEMO)/gan \
		--visualization $(DEMO)/visualization --output $(DEMO)/report.html
	@echo "Both small networks are on one page: $(DEMO)/report.html. Some figures:"
	@ls $(DEMO)/published/max_class_with_G.png $(DEMO)/gan/curves.png \
		$(DEMO)/visualization/max_class*.png $(DEMO)/visualization/max_*layer8.png
	@ls $(DEMO)/gan/samples/*.png | tail -1

# Each finished stage has a file. A stopped training has no summary.json.
CHECK_FINISHED = test -f $(1)/summary.json || \
	{ echo "the training was stopped: the same command resumes it" >&2; exit 1; }
SETTINGS = GAN_EPOCHS=$(GAN_EPOCHS) TRAIN_FLAGS=$(TRAIN_FLAGS)
COMPARED := summary.json robustness.png attack_convergence.png frequency.png calibration.png \
	transfer.png
PUBLISHED := $(COMPARED) layers.png max_class_without_G.png max_class_with_G.png \
	max_features_without_G_layer4.png max_features_with_G_layer8.png

full: $(FULL)/visualized $(FULL)/evaluated
	mkdir -p $(RESULTS)/evaluation $(RESULTS)/visualization
	cp $(FULL)/evaluation/evaluation.json $(RESULTS)/evaluation
	cp $(addprefix $(FULL)/visualization/,$(PUBLISHED)) $(RESULTS)/visualization
	python report.py --baseline $(RESULTS)/baseline --gan $(RESULTS)/gan \
		--evaluation $(FULL)/evaluation \
		--visualization $(FULL)/visualization --output $(FULL)/report.html
	test $(RESULTS) != results || python -m inside_cnn.reporting.tables

settings:
	@mkdir -p $(FULL)
	@test -d $(FULL)/baseline || echo '$(SETTINGS)' > $(FULL)/settings
	@test "$$(cat $(FULL)/settings)" = '$(SETTINGS)' || { echo "$(FULL) has a run with" \
		"$$(cat $(FULL)/settings): use the same, delete it or set another FULL=" >&2; exit 2; }

$(FULL)/baseline/summary.json: | $(INSTALLED) settings
	python train_discriminator.py --dataset cifar10 $(TRAIN_FLAGS) --output_dir $(FULL)/baseline
	@$(call CHECK_FINISHED,$(FULL)/baseline)

$(FULL)/gan/summary.json: | $(FULL)/baseline/summary.json
	python train_gan.py --dataset cifar10 $(TRAIN_FLAGS) --epochs $(GAN_EPOCHS) \
		--evaluate_every 20 --save_every_epochs 10 \
		--judge $(FULL)/baseline --output_dir $(FULL)/gan
	@$(call CHECK_FINISHED,$(FULL)/gan)

$(FULL)/published: $(FULL)/baseline/summary.json $(FULL)/gan/summary.json
	python -m inside_cnn.reporting.publish $(FULL)/baseline $(RESULTS)/baseline
	python -m inside_cnn.reporting.publish $(FULL)/gan $(RESULTS)/gan --sample_epochs 0 $(GAN_EPOCHS)
	touch $@

$(FULL)/evaluated: $(FULL)/published
	python evaluate_gan.py --generator $(RESULTS)/gan --judge $(RESULTS)/baseline $(SCORES) \
		--output_dir $(FULL)/evaluation
	touch $@

$(FULL)/visualized: $(FULL)/published
	python visualization.py --discriminator_without_G $(RESULTS)/baseline \
		--discriminator_with_G $(RESULTS)/gan --output_dir $(FULL)/visualization
	touch $@

# docs/training.md, "Control networks". $(1): the arm, $(2): the seed.
LADDER := results/ladder
LADDER_OUTPUT := output/ladder
FINDINGS := output/findings
PENALTY := --gp_batch_shrink 2
FLAGS_OF_full := --epochs 16 $(PENALTY) --gen_train 2 --ema_decay 0.9995
FLAGS_OF_trained := --epochs 16 $(PENALTY) --critic trained
FLAGS_OF_frozen := --epochs 16 $(PENALTY) --critic frozen
FLAGS_OF_penalty := --epochs 16 $(PENALTY) --critic penalty
FLAGS_OF_none := --epochs 16 --critic none
FLAGS_OF_none_early := --epochs 2 --critic none
FLAGS_OF_relativistic := --epochs 16 --recipe relativistic --ema_decay 0.9995 --evaluate_every 8
PUBLISH_FLAGS_OF_relativistic := --sample_epochs 16

define LADDER_RUN
ladder: $(LADDER)/$(1)_$(2)/summary.json
$(LADDER)/$(1)_$(2)/summary.json: | $(INSTALLED) \
		$(if $(filter trained,$(1)),$(LADDER)/full_$(2)/summary.json)
	python train_gan.py --dataset cifar10 --width 64 --batch_size 64 $(FLAGS_OF_$(1)) \
		$(if $(filter trained,$(1)),--fixed_generator $(LADDER)/full_$(2)) \
		--seed $(2) --output_dir $(LADDER_OUTPUT)/$(1)_$(2) $(TRAIN_FLAGS)
	@$$(call CHECK_FINISHED,$(LADDER_OUTPUT)/$(1)_$(2))
	python -m inside_cnn.reporting.publish $(LADDER_OUTPUT)/$(1)_$(2) $(LADDER)/$(1)_$(2) \
		--skip_curves $(PUBLISH_FLAGS_OF_$(1))
endef
$(foreach arm,full none none_early,$(foreach seed,0 1 2,$(eval $(call LADDER_RUN,$(arm),$(seed)))))
$(foreach arm,penalty frozen trained,$(foreach seed,0 1,$(eval $(call LADDER_RUN,$(arm),$(seed)))))
$(eval $(call LADDER_RUN,relativistic,0))

# The control networks that are published, compared: about two hours on one core.
COMPARED_NETWORKS = $(foreach arm,full trained frozen penalty none none_early relativistic,\
	$(sort $(wildcard $(LADDER)/$(arm)_?)))
findings: $(INSTALLED)
	python visualization.py --networks $(COMPARED_NETWORKS) --dataset cifar10 \
		--perturb_images --frequency --calibration --critic_score --transfer --compare_layers \
		--output_dir $(FINDINGS)
	cp $(addprefix $(FINDINGS)/,$(filter-out transfer.png,$(COMPARED))) $(LADDER)
	test $(LADDER) != results/ladder || python -m inside_cnn.reporting.tables

rehearsal:
	$(MAKE) full FULL=output/rehearsal RESULTS=output/rehearsal/results GAN_EPOCHS=20 \
		TRAIN_FLAGS="--width 12 --limit_train 1280" SCORES=

# Two processes with one thread each: most tests use one core.
test: $(INSTALLED)-dev
	OMP_NUM_THREADS=1 python -m pytest -n 2 --dist loadfile

lint: $(INSTALLED)-dev
	ruff check .
	ruff format --check .

explore: $(INSTALLED)
	python explore.py

data: $(INSTALLED)
	python data_tools.py

bench: $(INSTALLED)
	python benchmarks/throughput.py

tables: $(INSTALLED)
	python -m inside_cnn.reporting.tables

tutorial: $(INSTALLED)-dev
	jupytext --quiet --to ipynb --update --set-kernel python3 docs/tutorial.md
	jupyter nbconvert --to notebook --inplace --execute --ExecutePreprocessor.record_timing=False \
		docs/tutorial.ipynb
	jupyter nbconvert --to notebook --inplace --coalesce-streams docs/tutorial.ipynb

install: $(INSTALLED)

$(INSTALLED): requirements.txt
	@$(VENV)/bin/python -c 'import pip; $(NEW_ENOUGH)' 2> /dev/null || { \
		$(PYTHON) -c '$(NEW_ENOUGH)' && \
		$(PYTHON) -m venv $(CLEAR) $(VENV); }
	$(INSTALL_TORCH)
	$(PIP_INSTALL) -r requirements.txt
	touch $@

$(INSTALLED)-%: requirements-%.txt $(INSTALLED)
	$(PIP_INSTALL) -r $<
	touch $@
