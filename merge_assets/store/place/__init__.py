"""Where a store lies: one file for each kind of place, and what all of them can do."""

from merge_assets.store.place.place import Listed, Objects, Parts, Place, Tree, Upload
from merge_assets.store.place.watch import Watch

__all__ = ["Listed", "Objects", "Parts", "Place", "Tree", "Upload", "Watch"]
