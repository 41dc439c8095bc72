"""``python -m merge_assets`` is ``merge-assets``."""

from merge_assets.cli import main

main()
