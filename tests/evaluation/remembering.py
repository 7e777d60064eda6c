"""Peak memory of an evaluation: ``remembering.py MODEL FOLDER SCENES`` prints it in bytes."""

import sys
from pathlib import Path

import torch

import emerdiff_probe as ep
from emerdiff_probe.evaluation import PROTOCOLS, evaluate, scene_dataset
from emerdiff_probe.evaluation.methods import emerdiff_and_baselines


def peak():
    """Of this process alone: what getrusage tells counts the parent's memory, too."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(each for each in lines if each.startswith("VmHWM")).split()[1]) * 1024


def main():
    name, folder, count = sys.argv[1:]
    torch.set_num_threads(1)
    config = ep.EmerDiffConfig.playground().replace(
        steps=4, modulation_timestep=251, feature_timestep=1
    )
    method = emerdiff_and_baselines(ep.load(name), 3, config)
    scenes = scene_dataset(range(1_000_000, 1_000_000 + int(count)))
    found = evaluate(method, scenes, PROTOCOLS, kept=Path(folder))
    assert found.pictures["picture"].nunique() == int(count)
    print(peak())


if __name__ == "__main__":
    main()
