"""Classifies many videos at a time through a running server: python classify_many.py URL clip.mp4 ..."""

import asyncio
import sys

from tubelet.clients import AsyncVideoClassifier
from tubelet.spec.errors import TubeletError

AT_A_TIME = 8  # more than the server has processes for, so that it never waits for us; far less than its queue


async def main(url: str, *videos: str) -> None:
    room = asyncio.Semaphore(AT_A_TIME)
    async with AsyncVideoClassifier(url) as classifier:

        async def classify(video: str) -> str:
            async with room:
                try:
                    best = (await classifier.classify(video, top=1)).labels[0]
                except TubeletError as error:
                    return f"{video}: error: {error}"
            return f"{video}: {best.name} {best.probability:.4f}"

        for line in await asyncio.gather(*(classify(video) for video in videos)):
            sys.stdout.write(line + "\n")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
