"""Settings, recipes and store opened once; models opened, fetched and planned for whoever works with them."""

from merge_assets.workspace.automation import Automation
from merge_assets.workspace.models import Models
from merge_assets.workspace.workspace import Workspace, open_store

__all__ = ["Automation", "Models", "Workspace", "open_store"]
