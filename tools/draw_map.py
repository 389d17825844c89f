"""Draws the heatmap of a finished run as a picture, with a headless Chromium.

    python tools/draw_map.py results/sentiment_layers-… docs/images/sentiment.png

The pictures of the README are made so: `sentiment.png` from `make demo`, `pretrained.png` from
`make demo-pretrained`.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from steerlens.experiment import Run

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "chrome")
SCALE, EDGE = 2, 8
"""Pixels of the picture for one of the figure, and white around it."""


def main(words: list[str]) -> int:
    """Draws, and returns the exit status."""
    if len(words) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        print(f"None of {', '.join(BROWSERS)} is installed. Install Chromium.", file=sys.stderr)
        return 1
    figure = Run.load(words[0]).map.plot()
    width, height = 700, int(figure["layout"]["height"] or 450)
    figure.update_layout(width=width, height=height)
    target = Path(words[1]).resolve()
    with tempfile.TemporaryDirectory() as scratch:
        page = Path(scratch) / "map.html"
        html = figure.to_html(include_mathjax=False, config={"displayModeBar": False})
        page.write_text(html.replace("<body>", f"<body style='margin:{EDGE}px'>"), "utf-8")
        subprocess.run(
            [
                browser, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars",
                "--no-first-run", "--disable-background-networking", "--disable-sync",
                f"--user-data-dir={scratch}/user", f"--force-device-scale-factor={SCALE}",
                "--virtual-time-budget=8000", f"--window-size={width + 2 * EDGE},{height + 2 * EDGE}",
                f"--screenshot={target}", page.as_uri(),
            ],
            check=True,
            capture_output=True,
        )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
