"""The client as it is written, for asyncio."""
