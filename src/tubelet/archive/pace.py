"""How many requests to keep in flight at a server: as many as keep it full, and no more than it takes.

A pure state machine: it is told of answers and refusals with their times, and says a number. One step of it is a
*window*, a number of answers to requests that were all sent at the present limit, while the server was kept full.
"""

from __future__ import annotations

from typing import Literal

__all__ = ["FIXED", "Pace"]

FIXED: Literal["fixed"] = "fixed"
_Phase = Literal["doubling", "holding", "probing", "fixed"]

_DOUBLE_AT, _KEEP_AT = 1.10, 1.03
"""Growth of throughput that lets the limit double once more, and that is worth a higher limit."""
_FREE_AT, _SHORT_S = 0.85, 4.0
"""Throughput that is not worse, but for noise, and an answer's time that may well become twice as long."""
_WINDOW, _WINDOW_PER_REQUEST = 24, 3
"""Answers in a window: at least so many, and so many times the limit."""
_PROBE_EVERY = 6
"""Windows between two probes."""
_BACK_OFF = 0.7
_CEILING_S, _MOST_CEILING_S = 300.0, 3600.0
"""How long a level that was refused is not tried again: twice as long each time, up to the most."""
_IDLE_SHARE = 0.1
"""Part of a window's answers that may come while the server is not kept full; with more, the window says nothing."""


class Pace:
    """The limit of one server.

    Doubles while throughput grows by a tenth, then holds, and now and then probes a quarter more, which it keeps only
    if throughput grew. Up to ``comfort`` it doubles unless throughput falls, while answers come soon: there is room for
    that many, an archive does not mind to wait, and a server that has more to choose from makes larger batches. A
    refusal (`OverloadedError`) lowers the limit at once and is remembered as a ceiling.

    Args:
        fixed: a limit that never changes; None: adaptive.
        start: limit to begin with.
        most: limit that is never passed.
    """

    def __init__(self, *, fixed: int | None = None, start: int = 4, most: int = 256) -> None:
        self.limit = fixed or min(start, most)
        """Requests that may be in flight now."""
        self.comfort = 0
        """How many the server is known to have room for, with others beside us; known once it was asked."""
        self._phase: _Phase = FIXED if fixed else "doubling"
        self._most = most
        self._changed_s = float("-inf")
        self._lower_limit = self.limit
        self._lower_rate: float | None = None
        self._held_windows = 0
        self._ceiling: int | None = None
        self._ceiling_until_s = float("-inf")
        self._ceiling_s = _CEILING_S
        self._began_s: float | None = None
        self._answers = self._idle = 0
        self._waited_s = 0.0

    @property
    def phase(self) -> _Phase:
        """What it is doing."""
        return self._phase

    def answered(self, now_s: float, *, sent_s: float, was_full: bool) -> None:
        """Hears of an answer, a good one or the error of a video.

        Args:
            now_s: the time, on any clock that does not go back.
            sent_s: when the request was sent, on the same clock.
            was_full: whether as many requests as allowed were in flight until now.
        """
        if self._phase == FIXED or sent_s < self._changed_s:
            return
        if self._began_s is None:
            self._began_s = now_s
            return
        self._answers += 1
        self._idle += not was_full
        self._waited_s += now_s - sent_s
        if self._answers < max(_WINDOW, _WINDOW_PER_REQUEST * self.limit) * (2 if self._phase == "probing" else 1):
            return
        seconds, answers, idle, waited_s = now_s - self._began_s, self._answers, self._idle, self._waited_s
        self._begin_window(now_s)
        if seconds > 0 and idle <= _IDLE_SHARE * answers:
            self._judge(answers / seconds, now_s, is_prompt=waited_s <= _SHORT_S * answers)

    def overloaded(self, now_s: float, *, sent_s: float) -> None:
        """Hears of a refusal; of those to one burst only the first counts."""
        if self._phase == FIXED or sent_s < self._changed_s:
            return
        if self._ceiling is not None and now_s >= self._ceiling_until_s:
            self._ceiling_s = min(2 * self._ceiling_s, _MOST_CEILING_S)
        self._ceiling, self._ceiling_until_s = self.limit, now_s + self._ceiling_s
        self._hold(max(1, int(self.limit * _BACK_OFF)), None, now_s)

    def interrupted(self, now_s: float) -> None:
        """Hears that the server was away: what was measured so far says nothing of how it is now."""
        if self._phase == "probing":
            self._hold(self._lower_limit, self._lower_rate, now_s)
        self._changed_s = now_s
        self._begin_window()

    def _judge(self, rate: float, now_s: float, *, is_prompt: bool) -> None:
        """Takes the next step, after a window of so many answers a second."""
        growth = 1.0 if self._lower_rate is None else rate / self._lower_rate
        is_free = is_prompt and growth >= _FREE_AT
        match self._phase:
            case "doubling":
                if self._lower_rate is None or growth >= _DOUBLE_AT or (is_free and 2 * self.limit <= self.comfort):
                    self._raise("doubling", 2 * self.limit, rate, now_s)
                elif growth >= _KEEP_AT or (is_free and self.limit <= self.comfort):
                    self._hold(self.limit, rate, now_s)
                else:
                    self._hold(self._lower_limit, self._lower_rate, now_s)
            case "probing":
                if self._ceiling is not None and self.limit >= self._ceiling:
                    self._ceiling, self._ceiling_s = None, _CEILING_S  # it was not refused this time
                if growth >= _KEEP_AT:
                    self._hold(self.limit, rate, now_s)
                    self._held_windows = _PROBE_EVERY - 2  # the next step up may be worth it, too
                else:
                    self._hold(self._lower_limit, self._lower_rate, now_s)
            case "holding":
                self._lower_rate = rate if self._lower_rate is None else (self._lower_rate + rate) / 2
                self._held_windows += 1
                if self._held_windows >= _PROBE_EVERY:
                    self._raise("probing", self.limit + max(1, self.limit // 4), self._lower_rate, now_s)

    def _raise(self, phase: _Phase, limit: int, rate: float, now_s: float) -> None:
        bound = self._most
        if self._ceiling is not None:
            # Also when it is tried again: one request too many is one refusal.
            bound = min(bound, self._ceiling - (now_s < self._ceiling_until_s))
        limit = min(limit, bound)
        if limit <= self.limit:
            self._hold(self.limit, rate, now_s)
            return
        self._lower_limit, self._lower_rate = self.limit, rate
        self._change(phase, limit, now_s)

    def _hold(self, limit: int, rate: float | None, now_s: float) -> None:
        self._lower_limit, self._lower_rate, self._held_windows = limit, rate, 0
        self._change("holding", limit, now_s)

    def _change(self, phase: _Phase, limit: int, now_s: float) -> None:
        self._phase = phase
        if limit != self.limit:
            self.limit, self._changed_s = limit, now_s
            self._begin_window()

    def _begin_window(self, now_s: float | None = None) -> None:
        self._began_s = now_s
        self._answers = self._idle = 0
        self._waited_s = 0.0
