"""Work on many inputs, on several processes or machines, by Dask or in shards.

`emerdiff_probe.map` is `map_inputs`.
"""

from emerdiff_probe.distributed.inputs import inputs_of, of_scenes
from emerdiff_probe.distributed.items import Item
from emerdiff_probe.distributed.mapping import Mapped, map_inputs
from emerdiff_probe.distributed.shards import Shard

__all__ = [
    "Item",
    "Mapped",
    "Shard",
    "inputs_of",
    "map_inputs",
    "of_scenes",
]
