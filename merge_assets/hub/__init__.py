"""Checkpoints on a Hugging Face Hub: references pinned to commits, headers read by range, downloads."""

from merge_assets.hub.hub import Hub
from merge_assets.hub.revision import HubFile, HubHead, HubRevision

__all__ = ["Hub", "HubFile", "HubHead", "HubRevision"]
