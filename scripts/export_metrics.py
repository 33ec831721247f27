#!/usr/bin/env python3
"""A run's metrics for Weights & Biases or MLflow, from its folder.

usage: export_metrics.py RUN wandb|mlflow [--project NAME] [--name NAME]

RUN is a folder that `lpc-pipe train` wrote, finished or not. Every line of metrics.jsonl becomes the metrics of its step; evaluations of
the same step are logged with it. config.toml gives the parameters, flat (`train.lpc.codes`), summary.json the final numbers
(`eval_accuracy`, ...). Where the numbers go is the package's own affair: WANDB_MODE=offline keeps a W&B run on disk, and
MLFLOW_TRACKING_URI names an MLflow store. The name of the run is that of the folder, the project "lpc-pipe". Needs Python 3.11 and
wandb, or mlflow (mlflow-skinny is enough). A line that is no JSON object with a step ends the export with its number.
"""

import argparse
import json
import math
import sys
import tomllib
from pathlib import Path


def flat(value, key=""):
    """Nested tables as one, keys joined by points; lists as JSON."""
    if isinstance(value, dict):
        return {k: v for name, part in value.items() for k, v in flat(part, f"{key}.{name}" if key else name).items()}
    return {key: json.dumps(value) if isinstance(value, list) else value}


def steps(path):
    """Metrics by step, in order; of a step's lines the later wins."""
    found = {}
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            record = json.loads(line)
            step = record.pop("step")
        except (ValueError, KeyError, AttributeError, TypeError):
            sys.exit(f"{path}: line {number}: expected an object with a step")
        numbers = {k: float(v) for k, v in record.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}
        found.setdefault(step, {}).update(numbers)
    return dict(sorted(found.items()))


def finals(path):
    """Numbers of summary.json, where there is one."""
    if not path.exists():
        return {}
    summary = json.loads(path.read_text())
    return {k: v for k, v in summary.items() if isinstance(v, (int, float)) and not isinstance(v, bool)}


def to_wandb(project, name, config, metrics, final):
    import wandb

    run = wandb.init(project=project, name=name, config=config)
    for step, numbers in metrics.items():
        run.log(numbers, step=step)
    run.summary.update(final)
    run.finish()


def to_mlflow(project, name, config, metrics, final):
    import time

    import mlflow
    from mlflow.entities import Metric, Param

    mlflow.set_experiment(project)
    with mlflow.start_run(run_name=name) as run:
        client, now = mlflow.MlflowClient(), int(time.time() * 1000)
        params = [Param(k, str(v)) for k, v in config.items()]
        # A name in MLflow may have no brackets; a value that is not finite is left to W&B.
        logged = [Metric(k, v, now, step) for step, numbers in metrics.items() for k, v in numbers.items() if math.isfinite(v)]
        last = max(metrics, default=0)
        logged += [Metric(f"final/{k}", float(v), now, last) for k, v in final.items()]
        # The service takes at most 100 parameters and 1,000 metrics at once.
        for at in range(0, len(params), 100):
            client.log_batch(run.info.run_id, params=params[at : at + 100])
        for at in range(0, len(logged), 1000):
            client.log_batch(run.info.run_id, metrics=logged[at : at + 1000])
        print(f"mlflow run {run.info.run_id}")


def main():
    parser = argparse.ArgumentParser(usage=__doc__.splitlines()[2].removeprefix("usage: "))
    parser.add_argument("run", type=Path)
    parser.add_argument("where", choices=["wandb", "mlflow"])
    parser.add_argument("--project", default="lpc-pipe")
    parser.add_argument("--name")
    given = parser.parse_args()
    if not (given.run / "metrics.jsonl").exists():
        sys.exit(f"{given.run}: no metrics.jsonl: a folder that `lpc-pipe train` wrote is wanted")
    config = flat(tomllib.loads((given.run / "config.toml").read_text()))
    metrics = steps(given.run / "metrics.jsonl")
    final = finals(given.run / "summary.json")
    to = {"wandb": to_wandb, "mlflow": to_mlflow}[given.where]
    to(given.project, given.name or given.run.resolve().name, config, metrics, final)
    print(f"{given.run}: {len(metrics)} steps, {len(config)} parameters, {len(final)} final numbers")


if __name__ == "__main__":
    main()
