"""Draw each figure as an image, too, for readers of a stored notebook that run no scripts.

`run.py` runs this first in every kernel. Users who run a notebook need none of it.
"""


def _draw_pictures_too() -> None:
    import shutil
    import warnings

    import plotly.io as pio

    pio.renderers.default = "plotly_mimetype"
    if any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        import kaleido

        # Use one browser for all figures; plotly would start one for each.
        kaleido.start_sync_server(silence_warnings=True)
        warnings.filterwarnings("ignore", "The kopts argument")  # plotly's own call
        pio.renderers.default += "+png"


_draw_pictures_too()
del _draw_pictures_too  # notebooks start without names
