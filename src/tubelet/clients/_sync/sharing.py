# Made of _async/sharing.py by docs/make_sync.py: change that file, and make this one again.
"""Sends a call's largest input through shared memory, where the server on this machine allows it."""

from __future__ import annotations

from dataclasses import replace

from tenacity import Retrying, retry_if_result, stop_after_delay, wait_fixed

from tubelet.clients._sync.served import SyncConnection
from tubelet.clients.calls import Answer, Call, Tensor
from tubelet.clients.regions import LEAST_BYTES, Region, Regions
from tubelet.clients.wire import is_region_in_use, is_unknown_region
from tubelet.spec.errors import TubeletError

__all__ = ["SyncSharing"]

_LEAVE_S = 0.2
"""How long a client that is closed waits for the server to take leave of regions."""


class SyncSharing:
    """Large inputs of one connection; a server that wants nothing of it gets them as ever."""

    def __init__(self, connection: SyncConnection) -> None:
        self._connection = connection
        self._regions = Regions()
        self._is_refused = False
        self._unregister: list[str] = []

    def try_again(self) -> None:
        """Forgets that the server refused: another may be there now."""
        self._is_refused = False

    def infer(self, call: Call) -> Answer:
        """As the connection's own.

        Raises:
            TubeletError: as the connection's own.
        """
        self._catch_up()
        largest = max(call.tensors, key=lambda tensor: tensor.num_bytes)
        if self._is_refused or largest.num_bytes < LEAST_BYTES:
            return self._connection.infer(call)
        region = self._regions.take(largest.num_bytes)
        if region is None:
            return self._connection.infer(call)
        try:
            region.write(largest)
            answer = self._infer_with(region, _placed(call, largest, region), call)
        except BaseException:
            # The server may still read it, so no other call must write into it.
            self._regions.remove(region)
            self._forget(region)
            raise
        if self._is_refused:
            self._regions.remove(region)
            return answer
        for surplus in self._regions.give_back(region):
            self._forget(surplus)
        return answer

    def close(self) -> None:
        """Removes the regions and tells the server, if it is there."""
        for region in self._regions.close():
            self._forget(region)
        retrying = Retrying(
            retry=retry_if_result(bool),
            stop=stop_after_delay(_LEAVE_S),
            wait=wait_fixed(_LEAVE_S / 10),
            retry_error_callback=lambda _: False,
        )
        retrying(self._catch_up)

    def _infer_with(self, region: Region, placed: Call, call: Call) -> Answer:
        for _ in range(2):
            if not region.is_registered and not self._register(region):
                break
            try:
                return self._connection.infer(placed)
            except TubeletError as exc:
                if not is_unknown_region(exc):
                    raise
                # It was started again meanwhile.
                region.is_registered = False
        self._is_refused = True
        return self._connection.infer(call)

    def _register(self, region: Region) -> bool:
        try:
            self._connection.register_region(region.name, region.memory.size)
        except TubeletError:
            # It does not allow it, is on another machine behind a forwarded port, or is not there at all.
            return False
        region.is_registered = True
        return True

    def _forget(self, region: Region) -> None:
        if region.is_registered:
            self._unregister.append(region.name)

    def _catch_up(self) -> bool:
        """Tells the server of regions that are no more, since it keeps their memory; whether it still uses some."""
        waiting, self._unregister = self._unregister, []
        for name in waiting:
            try:
                self._connection.unregister_region(name)
            except TubeletError as exc:
                # Triton holds a request for a moment longer than its answer takes. Of a lost server nothing is left.
                if is_region_in_use(exc):
                    self._unregister.append(name)
        return bool(self._unregister)


def _placed(call: Call, tensor: Tensor, region: Region) -> Call:
    there = replace(tensor, region=region.name)
    return replace(call, tensors=tuple(there if one is tensor else one for one in call.tensors))
