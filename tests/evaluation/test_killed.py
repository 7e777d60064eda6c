"""An evaluation that is killed, at whatever moment, goes on to the same table, in little memory."""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def script(name, *arguments):
    command = [sys.executable, HERE / name, *arguments]
    done = subprocess.run(list(map(str, command)), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout.split()


def test_killed_at_ten_moments_it_goes_on_to_the_same_table(tiny_folder, tmp_path):
    states = script("killing.py", tiny_folder, tmp_path, 10, 0)
    # Killed at so many moments, and at these states: lines of the journal.
    assert len(states) == 10
    assert len(set(states)) > 2, states


def test_memory_does_not_grow_with_the_scenes(tiny_folder, tmp_path):
    few, many = (
        int(*script("remembering.py", tiny_folder, tmp_path / str(count), count))
        for count in (4, 124)
    )
    # 120 scenes more are 24 MiB of pictures, truths and labels if they were kept. Peaks of equal
    # runs differ by up to 13 MiB on a busy machine.
    assert many - few < 18 * 2**20, (few, many)
