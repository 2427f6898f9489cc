"""What the client tests share: checks that print a line each and stop at the first failure, and two known digits."""

import sys
import time

# Two images of the digits data set (UCI; bundled with scikit-learn): a zero and a one.
DIGITS = [
    [0, 0, 5, 13, 9, 1, 0, 0, 0, 0, 13, 15, 10, 15, 5, 0, 0, 3, 15, 2, 0, 11, 8, 0, 0, 4, 12, 0, 0, 8, 8, 0,
     0, 5, 8, 0, 0, 9, 8, 0, 0, 4, 11, 0, 1, 12, 7, 0, 0, 2, 14, 5, 10, 12, 0, 0, 0, 0, 6, 13, 10, 0, 0, 0],
    [0, 0, 0, 12, 13, 5, 0, 0, 0, 0, 0, 11, 16, 9, 0, 0, 0, 0, 3, 15, 16, 6, 0, 0, 0, 7, 15, 16, 16, 2, 0, 0,
     0, 0, 1, 16, 16, 3, 0, 0, 0, 0, 1, 16, 16, 6, 0, 0, 0, 0, 1, 16, 16, 6, 0, 0, 0, 0, 0, 11, 16, 10, 0, 0],
]
LABELS = [0, 1]

# No call of these tests takes this long on a working mesh; a hanging one fails by it.
PATIENCE = 30.0


class Checks:
    """Counts what holds. The first thing that does not ends the script with exit code 1."""

    def __init__(self, title):
        self.title = title
        self.count = 0

    def holds(self, what, condition, detail=""):
        if not condition:
            sys.exit(f"FAILED {self.title}: {what}: {detail}")
        self.count += 1
        print(f"ok {self.title}: {what}", flush=True)

    def equal(self, what, found, wanted):
        self.holds(what, found == wanted, f"found {found!r}, wanted {wanted!r}")

    def until(self, what, condition):
        """Asks again until it holds: control changes reach a router after a moment."""
        end = time.monotonic() + PATIENCE
        found = condition()
        while not found and time.monotonic() < end:
            time.sleep(0.05)
            found = condition()
        self.holds(what, found, f"not within {PATIENCE:.0f} s")
        return found

    def done(self):
        print(f"{self.title}: all {self.count} checks passed", flush=True)
