"""What the client needs in two forms, as coroutines have it and as threads have it.

`tubelet.clients._async` uses the first of each pair; what is made of it, `tubelet.clients._sync`, uses the second.
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Callable
from typing import TypeVar

from tritonclient import grpc as sync_grpc
from tritonclient.grpc import aio as async_grpc

__all__ = [
    "AsyncLock",
    "AsyncTriton",
    "SyncLock",
    "SyncTriton",
    "async_in_thread",
    "async_is_cancelled",
    "async_owner",
    "sync_in_thread",
    "sync_is_cancelled",
    "sync_owner",
]

T = TypeVar("T")

AsyncLock, SyncLock = asyncio.Lock, threading.Lock
AsyncTriton, SyncTriton = async_grpc.InferenceServerClient, sync_grpc.InferenceServerClient


async def async_in_thread(function: Callable[[], T]) -> T:
    """Calls what may have to wait for a disk, without keeping the other coroutines waiting."""
    return await asyncio.to_thread(function)


def sync_in_thread(function: Callable[[], T]) -> T:
    """Calls it; the caller's is a thread already."""
    return function()


def async_is_cancelled() -> bool:
    """Whether it is the caller's task that was cancelled, and not only a call in it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def sync_is_cancelled() -> bool:
    """Threads are not cancelled."""
    return False


def async_owner() -> object:
    """To what a connection belongs: its event loop."""
    return asyncio.get_running_loop()


def sync_owner() -> object:
    """To what a connection belongs: its process, since a child would share its sockets."""
    return os.getpid()
