"""Workers of Dask: the same recording as one process makes, also where one of them is killed."""

import os
import signal
import threading
import time

import pytest
from distributed import Client, LocalCluster

import emerdiff_probe as ep
from emerdiff_probe.errors import ConfigError, ModelError
from tests.distributed.pictures import SETTINGS, check_equal, folder


@pytest.fixture(scope="module")
def cluster():
    options = {"dashboard_address": None, "env": {"OMP_NUM_THREADS": "1"}}
    with LocalCluster(n_workers=2, threads_per_worker=1, host="127.0.0.1", **options) as cluster:
        yield cluster


def kill_one(cluster, store):
    """Kill a worker as soon as something is recorded."""
    with Client(cluster, set_as_default=False) as client:
        pids = client.run(os.getpid)
    while not any((store / "restart/value").glob("c.*.*")):
        time.sleep(0.05)
    os.kill(next(iter(pids.values())), signal.SIGKILL)


def test_a_killed_worker_costs_nothing(cluster, tiny_folder, tmp_path):
    pictures, store = folder(tmp_path / "pictures", 8, bad=["bad.png"]), tmp_path / "many.zarr"
    call = {"model": tiny_folder, "scheduler": cluster.scheduler_address, "progress": False}
    killer = threading.Thread(target=kill_one, args=(cluster, store), daemon=True)
    killer.start()
    found = ep.map("record", pictures, store, **call, **SETTINGS)
    killer.join(60)
    assert not killer.is_alive(), "the control: a worker was killed"
    assert list(found.failed["key"]) == ["bad.png"]
    check_equal(store, pictures, ep.load(tiny_folder))
    with Client(cluster, set_as_default=False) as client:
        left = client.run(_plugins)
    assert not any(name.startswith("emerdiff") for names in left.values() for name in names)


def _plugins(dask_worker):
    return [*dask_worker.plugins]


def test_a_model_that_workers_cannot_load_is_told(cluster, tmp_path):
    pictures = folder(tmp_path / "pictures", 1)
    with pytest.raises(ModelError, match="no model 'no-model'"):
        ep.map(
            "record",
            pictures,
            tmp_path / "many.zarr",
            model="no-model",
            scheduler=cluster.scheduler_address,
            progress=False,
        )
    assert not (tmp_path / "many.zarr").exists()


def test_what_workers_cannot_have_is_refused(tiny_folder, tmp_path):
    pictures, store = folder(tmp_path / "pictures", 1), tmp_path / "many.zarr"
    with pytest.raises(ConfigError, match="is loaded already; give its name or folder"):
        ep.map("record", pictures, store, model=object(), workers=2)
    with pytest.raises(ConfigError, match="give one of both"):
        ep.map("record", pictures, store, workers=2, scheduler="tcp://127.0.0.1:1")
    with pytest.raises(ConfigError, match="workers is 0; choose an integer"):
        ep.map("record", pictures, store, workers=0)
