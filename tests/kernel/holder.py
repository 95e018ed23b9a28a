"""A client that holds a board as a USB device of its machine.

    python holder.py GRACE board|reservation NAME

It prints the tty whenever the board is plugged in, and ends on SIGTERM, or when it is killed.
"""

import sys

import icefarm


def main() -> None:
    """Reserve a board, or take one that is reserved, and attach it."""
    grace, what, name = sys.argv[1:]
    with icefarm.Client(name="ann", grace=float(grace)) as farm:
        held = (
            farm.reserve(boards=[name], behaviour="usbip")
            if what == "board"
            else farm.find_reservation(name)
        )
        print("holds", held.id, flush=True)
        with held.attach() as attached:
            while True:
                print("attached", *attached.paths, flush=True)
                while attached.is_attached:
                    attached.changed()
                print("lost", attached.lost, flush=True)
                attached.wait()


if __name__ == "__main__":
    main()
