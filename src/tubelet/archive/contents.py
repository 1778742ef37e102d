"""Which items under way have the same bytes and the same part: one leads, the others wait for its row."""

from __future__ import annotations

from tubelet.archive.work import Identity, Work

__all__ = ["Contents"]


class Contents:
    """From when an item was read until its row is the caller's, who knows it from then on."""

    def __init__(self) -> None:
        self._leaders: dict[Identity, Work] = {}
        self.num_following = 0
        """Items that wait for another's row."""

    def leader(self, work: Work) -> Work:
        """Who leads a work: itself, if it is the first of its kind."""
        return self._leaders.setdefault(work.identity, work)

    def follow(self, work: Work, leader: Work) -> None:
        """Lets a work wait for the leader's row."""
        leader.followers.append(work)
        self.num_following += 1

    def followers(self, work: Work) -> list[Work]:
        """Those who wait for a work's row, and do so no longer."""
        followers, work.followers = work.followers, []
        self.num_following -= len(followers)
        return followers

    def forget(self, work: Work) -> None:
        """Lets the next of its kind be the first again."""
        if self._leaders.get(work.identity) is work:
            del self._leaders[work.identity]
