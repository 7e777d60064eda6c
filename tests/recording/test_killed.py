"""A streamed recording that is killed, at whatever moment, goes on to the same bytes."""

import subprocess
import sys
from pathlib import Path

import pytest

NURSERY = Path(__file__).with_name("killing.py")


@pytest.mark.parametrize("seed", [0])
def test_killed_at_twenty_moments_it_goes_on_to_the_same_bytes(tiny_folder, tmp_path, seed):
    command = [sys.executable, NURSERY, tiny_folder, tmp_path, "20", str(seed)]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    # Killed at so many moments, and at these states: blocks that were committed.
    kills, states = done.stdout.splitlines()
    assert kills == "20"
    assert len(set(states.split())) > 2, states
