"""Customer keys in sealed files of this server: for one machine, trials and tests. ``store`` is the key store."""
