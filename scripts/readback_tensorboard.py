#!/usr/bin/env python3
"""Reads a run folder's TensorBoard events with TensorBoard itself, and compares them with metrics.jsonl.

    python3 scripts/readback_tensorboard.py RUN_FOLDER

Every record's checksum is checked by TensorBoard's reader of event files; its accumulator must then
find every key of metrics.jsonl as a scalar, with the same steps, each once and in order, and the same
values in float32. A run that was stopped and resumed must pass like one that was not.

Needs `pip install tensorboard`.
"""

import argparse
import json
import math
import struct
import sys
from pathlib import Path

faults = []


def check(fine, message):
    if not fine:
        faults.append(message)
        print(f"  FAULT {message}")


def single(x):
    """The nearest float32, as the events hold it; what is not finite is null in JSON."""
    return None if x is None or not math.isfinite(x) else struct.unpack("<f", struct.pack("<f", x))[0]


def expected(folder):
    """tag -> [(step, value)] as metrics.jsonl has them."""
    tags = {}
    for line in (folder / "metrics.jsonl").read_text().splitlines():
        metrics = json.loads(line)
        step = metrics.pop("step")
        for tag, value in metrics.items():
            tags.setdefault(tag, []).append((step, single(value)))
    return tags


def raw_steps(files):
    """Steps in the order in which they stand in the files, with the checksum of every record checked."""
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    steps = []
    for file in files:
        events = list(EventFileLoader(str(file)).Load())
        check(events and events[0].file_version == "brain.Event:2", f"{file.name}: no version at its beginning")
        steps += [event.step for event in events if event.summary.value]
    return steps


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    args = parser.parse_args()

    from importlib.metadata import version

    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    wanted = expected(args.folder)
    files = sorted((args.folder / "tb").glob("*tfevents*"))
    print(f"tensorboard {version('tensorboard')}: {len(files)} event files")
    steps = raw_steps(files)
    check(steps == sorted(steps), "steps stand out of order in the files")
    lines = [json.loads(line)["step"] for line in (args.folder / "metrics.jsonl").read_text().splitlines()]
    check(steps == lines, f"{len(steps)} events, {len(lines)} lines in metrics.jsonl, or other steps")

    # Size guidance 0 keeps every event: by default TensorBoard samples long runs.
    accumulator = EventAccumulator(str(args.folder / "tb"), size_guidance={"scalars": 0})
    accumulator.Reload()
    tags = accumulator.Tags()["scalars"]
    check(set(tags) == set(wanted), f"tags differ: {sorted(set(tags) ^ set(wanted))}")
    values = 0
    for tag in sorted(set(tags) & set(wanted)):
        found = [(event.step, single(event.value)) for event in accumulator.Scalars(tag)]
        values += len(found)
        check(found == wanted[tag], f"{tag}: {found[:3]}..., expected {wanted[tag][:3]}...")
    print(f"{len(tags)} tags, {values} values, steps {lines[0]} to {lines[-1]}" if lines else "no steps")
    if faults:
        sys.exit(f"{len(faults)} faults")
    print("all as in metrics.jsonl")


if __name__ == "__main__":
    main()
