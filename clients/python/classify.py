"""Classifies one video through a running server: python classify.py clip.mp4 [URL], gRPC or HTTP as the URL says."""

import sys

from tubelet.clients import DEFAULT_URL, VideoClassifier
from tubelet.spec.errors import TubeletError


def main(video: str, url: str = DEFAULT_URL) -> None:
    try:
        with VideoClassifier(url) as classifier:
            found = classifier.classify(video, top=3)
    except TubeletError as error:
        sys.exit(f"error: {error}")  # begins with a stable code, which is also error.code
    sys.stdout.writelines(f"{label.probability:.4f}  {label.name}\n" for label in found.labels)


if __name__ == "__main__":
    main(*sys.argv[1:])
