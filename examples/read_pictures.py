"""Read the pictures of a video: python examples/read_pictures.py FILE

Shows the mean brightness of ten pictures, evenly spread, and which of them were generated.
"""

import sys

import hybridprompt


def main(path: str) -> None:
    with hybridprompt.open(path) as video:
        seconds = video.duration_seconds or 0.0
        print(f"{video.width}x{video.height}, {float(video.average_rate):g} pictures/s, {seconds:.2f} s")
        for step in range(10):
            # A part of the file; `for picture in video` would give all of it.
            for picture in video.pictures(start_seconds=seconds * step / 10, duration_seconds=1.0):
                kind = "generated" if picture.is_anchor else "decoded"
                print(f"{picture.pts_seconds:8.3f} s  brightness {picture.y.mean():5.1f}  {kind}")
                break  # leaving the loop stops the decoding behind it
        for warning in video.warnings:
            print(f"warning {warning}")


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    try:
        main(sys.argv[1])
    except hybridprompt.HybridPromptError as error:
        sys.exit(f"error: {error}")
