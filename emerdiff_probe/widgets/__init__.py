"""Views that answer clicks in JupyterLab and wherever else ipywidgets work; no torch.

Each explorer keeps its state in traits, which can be read, set and observed from code. Widgets need
the extra ``notebooks``.
"""

try:
    import anywidget as _  # noqa: F401
except ImportError as error:
    raise ImportError(
        "widgets need ipywidgets and anywidget: pip install 'emerdiff-probe[notebooks]'"
    ) from error

from emerdiff_probe.widgets.compare import Compare, CompareSegments
from emerdiff_probe.widgets.correspondence import CorrespondenceExplorer
from emerdiff_probe.widgets.inspector import Inspector
from emerdiff_probe.widgets.picture import Picture
from emerdiff_probe.widgets.segmentation import SegmentationExplorer
from emerdiff_probe.widgets.sites import SiteBrowser

__all__ = [
    "Compare",
    "CompareSegments",
    "CorrespondenceExplorer",
    "Inspector",
    "Picture",
    "SegmentationExplorer",
    "SiteBrowser",
]
