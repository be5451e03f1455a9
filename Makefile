# Every target needs only a Python with venv: it sets up .venv first.
PYTHON ?= python3
BIN := .venv/bin

# Whatever the environment says, keep compiled bytecode. Without it, pytest rewrites all tests at each start, and each
# worker of Ray compiles raycrnn.
export PYTHONDONTWRITEBYTECODE :=

.PHONY: demo docs test test-with-ray test-without-ray test-gpu test-long test-long-with-ray test-long-without-ray \
	test-extended test-multinode lint

# A stamp file: an interrupted installation also leaves a new directory behind.
.venv/ready: setup.cfg pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test]'
	touch $@

demo: .venv/ready
	rm -rf demo
	$(BIN)/raycrnn numbers examples/mnist/t10k-images-idx3-ubyte.gz examples/mnist/t10k-labels-idx1-ubyte.gz \
		demo/numbers --count 12000 --eval-count 600 --most 6
	$(BIN)/raycrnn train examples/numbers.json
	$(BIN)/raycrnn evaluate demo/output/model demo/numbers/eval.csv
	$(BIN)/raycrnn predict demo/output/model demo/numbers/images/eval_00000[0-4].png
	@echo
	@echo "The labels of these five:"
	@head -5 demo/numbers/eval.csv
	@echo
	@echo "The model:     demo/output/model/"
	@echo "The curves:    $(BIN)/tensorboard --logdir demo/output/logs"
	@echo "Your own data: write lines.csv, a row image;label each, then"
	@echo "               $(BIN)/raycrnn split lines.csv"
	@echo "               $(BIN)/raycrnn train config_template.json \\"
	@echo "                   data.csv_files_train=lines_train.csv data.csv_files_eval=lines_eval.csv"

# A second stamp file, so that the tests do not install the tools that build the site.
.venv/docs-ready: .venv/ready
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[docs]'
	touch $@

docs: .venv/docs-ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet
	@echo "The documentation: site/index.html"

lint: .venv/ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check --quiet .
	$(BIN)/mypy

# The tests that need Ray run beside all others; the linters, which take 45 s, follow the shorter of the two. Not with
# pytest-xdist, whose groups pytest 9.2 ignores: then both of its processes start a cluster. Threads of torch that wait
# for each other must not spin: on two cores with one other busy process, a training step takes 96 ms instead of 170 to
# 390 ms.
test: .venv/ready
	OMP_WAIT_POLICY=PASSIVE $(MAKE) --jobs 2 --keep-going --output-sync=target test-with-ray test-without-ray lint

test-with-ray: .venv/ready
	$(BIN)/python -m pytest -q --durations=15 -m "ray and not long and not extended and not cluster"

test-without-ray: .venv/ready
	$(BIN)/python -m pytest -q --durations=15 -m "not ray and not long and not extended and not cluster"

# The long tests, and beside them the property tests with more examples than in `make test`.
test-long: .venv/ready
	OMP_WAIT_POLICY=PASSIVE $(MAKE) --jobs 2 --keep-going --output-sync=target test-long-with-ray test-long-without-ray

test-long-with-ray: .venv/ready
	$(BIN)/python -m pytest -q --durations=15 -m "long and ray and not extended and not cluster"

test-long-without-ray: .venv/ready
	$(BIN)/python -m pytest -q --durations=15 -m "((long and not ray) or hypothesis) and not extended and not cluster" \
		--hypothesis-profile=long

# Long tests that CI leaves out, because other tests cover most of what they check.
test-extended: .venv/ready
	$(BIN)/python -m pytest -q -m "extended and not cluster"

# What needs a GPU, and some of it two. The same tests run on the CPU in `make test`.
test-gpu: .venv/ready
	$(BIN)/python -m pytest -q -m gpu

# Tests with several machines. They need root, openssh-server, openssh-client, rsync, iproute2, buildah and mmdebstrap;
# tests that cannot run on this machine are skipped, with the reason.
test-multinode: .venv/ready
	$(BIN)/python -m pytest -q -m cluster
