"""What all tests share: with EMERDIFF_NO_SKIPS=1 a run in which a test was skipped fails."""

import os

import pytest


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    """A folder with a pipeline of random weights in the layout of the bundled model."""
    # torch takes seconds to load, and most tests do without.
    from tests.checkpoints import tiny_playground

    folder = tmp_path_factory.mktemp("model") / "tiny"
    tiny_playground().save_pretrained(folder)
    return folder


def pytest_sessionfinish(session):
    """Fail the run as a whole: doctests and notebooks lie outside this folder's own hooks."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("EMERDIFF_NO_SKIPS") != "1" or reporter is None:
        return
    skipped = len(reporter.stats.get("skipped", []))
    if skipped:
        reporter.write_line(f"EMERDIFF_NO_SKIPS=1: {skipped} skipped, so this run fails", red=True)
        if session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED
