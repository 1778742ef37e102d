"""Reports as web pages: one HTML file each, without scripts, which asks no network for anything."""
