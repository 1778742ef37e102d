"""The networks, one file per paper; nothing about files, export or serving in them."""
