"""Spectra, SNR scores and layer importance of a checkpoint; import the modules, this file imports nothing."""
