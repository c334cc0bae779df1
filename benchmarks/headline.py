"""The short, fixed evaluation of `make bench`: quality of two clips, and the speed of decoding.

    python benchmarks/headline.py

The full tables come from quality.py and speed.py.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from common import data_folder

CLIPS = ("acrobatics_994p30.mp4", "sam2_dog_720p.mp4")


def main() -> None:
    here = Path(__file__).parent
    clips = [str(data_folder() / "clips" / name) for name in CLIPS]
    missing = [clip for clip in clips if not Path(clip).exists()]
    if missing:
        raise SystemExit(f"no {', '.join(missing)}: set HYBRIDPROMPT_DATA to the folder with clips/")
    for command in (
        [str(here / "quality.py"), *clips, "--light", "16", "--heavy", "2"],
        [str(here / "speed.py"), "--repeats", "3", "--no-encode"],
    ):
        subprocess.run([sys.executable, *command], check=True)


if __name__ == "__main__":
    main()
