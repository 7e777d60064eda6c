"""Draws each figure as a picture, too, for readers of a stored notebook that run no scripts.

`run.py` has every kernel run this first. Who runs a notebook needs none of it.
"""


def _draw_pictures_too() -> None:
    import shutil
    import warnings

    import plotly.io as pio

    pio.renderers.default = "plotly_mimetype"
    if any(map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))):
        import kaleido

        # One browser for all figures, where plotly would begin one for each.
        kaleido.start_sync_server(silence_warnings=True)
        warnings.filterwarnings("ignore", "The kopts argument")  # plotly's, which mean another way
        pio.renderers.default += "+png"


_draw_pictures_too()
del _draw_pictures_too  # notebooks begin without names
