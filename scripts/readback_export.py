#!/usr/bin/env python3
"""Exports a run to Weights & Biases and to MLflow with the real packages, offline, and compares what they hold with the run.

usage: readback_export.py RUN

Every number of metrics.jsonl must be found at its step in the W&B run file and in the MLflow store, every setting of config.toml as a
parameter, and the numbers of summary.json as final ones. Nothing leaves the machine. Needs `pip install wandb mlflow-skinny sqlalchemy
alembic`. Ends with 1 where something differs.
"""

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

import export_metrics

BLOCK = 32768  # of the log format of LevelDB, in which a W&B run file is written
HEAD = 7  # bytes before the first block of a run file


def records(path):
    """The records of a W&B run file."""
    data, at, parts = path.read_bytes(), HEAD, b""
    while at + 7 <= len(data):
        left = BLOCK - at % BLOCK
        if left < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, at)
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def of_wandb(folder):
    from wandb.proto import wandb_internal_pb2

    metrics, config, final = {}, {}, {}
    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    name = lambda item: item.key or ".".join(item.nested_key)
    for data in records(path):
        record = wandb_internal_pb2.Record.FromString(data)
        kind = record.WhichOneof("record_type")
        if kind == "history":
            items = {name(i): json.loads(i.value_json) for i in record.history.item}
            metrics.setdefault(record.history.step.num, {}).update({k: v for k, v in items.items() if not k.startswith("_")})
        elif kind in ("run", "config"):
            update = record.run.config.update if kind == "run" else record.config.update
            config.update({name(i): json.loads(i.value_json) for i in update})
        elif kind == "summary":
            final.update({name(i): json.loads(i.value_json) for i in record.summary.update})
    return metrics, config, final


def of_mlflow(uri):
    import mlflow

    mlflow.set_tracking_uri(uri)
    client = mlflow.MlflowClient()
    experiment = client.get_experiment_by_name("lpc-pipe")
    (run,) = client.search_runs([experiment.experiment_id])
    metrics, final = {}, {}
    for key in run.data.metrics:
        for metric in client.get_metric_history(run.info.run_id, key):
            if key.startswith("final/"):
                final[key.removeprefix("final/")] = metric.value
            else:
                metrics.setdefault(metric.step, {})[key] = metric.value
    return metrics, run.data.params, final


def main():
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    run = Path(sys.argv[1]).resolve()
    wanted = export_metrics.steps(run / "metrics.jsonl")
    config = export_metrics.flat(export_metrics.tomllib.loads((run / "config.toml").read_text()))
    final = export_metrics.finals(run / "summary.json")
    faults = 0
    with tempfile.TemporaryDirectory() as folder:
        uri = f"sqlite:///{folder}/mlflow.db"
        settings = {"WANDB_MODE": "offline", "WANDB_SILENT": "true", "MLFLOW_TRACKING_URI": uri}
        for where in ("wandb", "mlflow"):
            command = [sys.executable, str(Path(__file__).with_name("export_metrics.py")), str(run), where]
            subprocess.run(command, cwd=folder, env=os.environ | settings, check=True, stdout=subprocess.DEVNULL)
            metrics, parameters, last = of_wandb(Path(folder)) if where == "wandb" else of_mlflow(uri)
            texts = {k: str(v) for k, v in parameters.items()}
            lost = [(s, k) for s, numbers in wanted.items() for k, v in numbers.items() if metrics.get(s, {}).get(k) != v]
            lost += [k for k, v in config.items() if texts.get(k) != str(v)]
            lost += [k for k, v in final.items() if last.get(k) != v]
            numbers = sum(map(len, wanted.values()))
            print(f"{where}: {len(wanted)} steps, {numbers} numbers, {len(config)} settings, {len(final)} final; {len(lost)} differ {lost[:5]}")
            faults += len(lost)
    sys.exit(1 if faults else 0)


if __name__ == "__main__":
    main()
