"""Kills evaluations with SIGKILL: ``killing.py MODEL FOLDER KILLS SEED``.

The model is loaded once. Each evaluation runs in a forked child, which is killed after a random
time and begun again, until it is done; then its tables are compared with those of one that nobody
killed.
"""

import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

import emerdiff_probe as ep
from emerdiff_probe.evaluation import PROTOCOLS, evaluate, scene_dataset
from emerdiff_probe.evaluation.methods import emerdiff_and_baselines

SCENES = range(1_000_000, 1_000_012)


def child(method, folder):
    """An evaluation in a process of its own, which writes its tables to the end."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            found = evaluate(method, scene_dataset(SCENES), PROTOCOLS, kept=folder / "kept")
            found.pictures.to_csv(folder / "pictures.csv")
            found.over_dataset.to_csv(folder / "over.csv")
            code = 0
        finally:
            os._exit(code)
    return pid


def done(folder):
    kept = folder / "kept/scores.jsonl"
    return kept.read_bytes().count(b"\n") if kept.exists() else 0


def main():
    name, folder, kills, seed = sys.argv[1:]
    torch.set_num_threads(1)
    model = ep.load(name)
    config = ep.EmerDiffConfig.playground().replace(
        steps=4, modulation_timestep=251, feature_timestep=1
    )
    method = emerdiff_and_baselines(model, 3, config)
    method(ep.scenes.scene(SCENES[0]).image)  # all that is loaded late is loaded before a fork
    whole, killed = (Path(folder) / each for each in ("whole", "killed"))
    whole.mkdir()
    killed.mkdir()
    begun = time.monotonic()
    _, status = os.waitpid(child(method, whole), 0)
    usual = time.monotonic() - begun
    assert status == 0, "the evaluation that nobody kills is whole"
    moments, states = random.Random(int(seed)), []
    while len(states) < int(kills):
        pid = child(method, killed)
        time.sleep(moments.uniform(0, usual / 4))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        states.append(done(killed))
    _, status = os.waitpid(child(method, killed), 0)
    assert status == 0, "it goes on"
    for table in ("pictures.csv", "over.csv"):
        assert (killed / table).read_bytes() == (whole / table).read_bytes(), table
    print(*states)


if __name__ == "__main__":
    main()
