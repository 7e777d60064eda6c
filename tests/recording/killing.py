"""Kills recordings with SIGKILL: ``killing.py MODEL FOLDER KILLS SEED``.

The model is loaded once. Each recording runs in a forked child, which is killed after a random time
and begun again, until it is done; then its files are compared with those of one that nobody killed.
"""

import os
import random
import shutil
import signal
import sys
import time
from pathlib import Path

import torch

import emerdiff_probe as ep
from emerdiff_probe.recording import recording
from emerdiff_probe.store import Streamed, plan
from emerdiff_probe.store.chunks import chunks_of

PROMPTS = [ep.Prompt("a red house", 1), ep.Prompt("a blue car", 2)]


def record(model, path):
    ep.record(model, PROMPTS, steps=4, guidance=2, store=path, progress=False)


def child(model, path):
    """Begins to record in a process of its own; returns when it comes to the store."""
    there, here = os.pipe()
    pid = os.fork()
    if pid == 0:

        def told(*arguments):
            os.write(here, b".")
            return Streamed(*arguments)

        recording.Streamed = told
        code = 1
        try:
            record(model, path)
            code = 0
        finally:
            os._exit(code)
    os.close(here)
    os.read(there, 1)
    os.close(there)
    return pid


def files(path):
    """What is in a folder, to the last byte, but for the leftovers of those who were killed."""
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in path.rglob("*")
        if file.is_file() and file.suffix != ".partial"
    }


def committed(path):
    return len(chunks_of(path, "restart/value"))


def main():
    model, folder, kills, seed = sys.argv[1:]
    torch.set_num_threads(1)
    plan._LONGEST_BLOCK = 1
    model = ep.load(model)
    whole, path = Path(folder) / "whole.zarr", Path(folder) / "run.zarr"
    # Listing the sites takes longer than recording them.
    table = model.sites("mid_block, up_blocks.1.*attn2:*")
    model.sites = lambda *_, **__: table
    record(model, None)  # all that is loaded late is loaded before anyone is forked
    pid, begun = child(model, whole), time.monotonic()
    os.waitpid(pid, 0)
    usual, expected = time.monotonic() - begun, files(whole)
    assert committed(whole) == 8, "the recording that nobody kills is whole"
    moments, states = random.Random(int(seed)), []
    while len(states) < int(kills) or path.exists():
        pid = child(model, path)
        if len(states) < int(kills):
            time.sleep(moments.uniform(0, usual * 0.7))
            os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        if os.WIFSIGNALED(status):
            states.append(committed(path))
            continue
        assert status == 0, "it failed"
        assert files(path) == expected, "it went on to something else"
        assert not list(path.rglob("*.partial")), "something is left of those who were killed"
        shutil.rmtree(path)
    print(len(states))
    print(*states)


if __name__ == "__main__":
    main()
