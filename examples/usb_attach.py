"""A board's USB port on this machine: its tty is used as if the board were plugged in here.

    sudo modprobe vhci-hcd
    sudo python examples/usb_attach.py

The farm needs a board with a USB port, which virtual boards do not have. A board that was just
prepared runs a default firmware, which says so on its console.
"""

import tty

import icefarm

with icefarm.Client() as farm, farm.reserve(behaviour="usbip") as reservation:
    [board] = reservation.boards
    with board.attach() as attachment:
        [path] = attachment.ttys
        print(f"{board} of {board.agent} is {path} now")
        with open(path, "rb", buffering=0) as port:
            # Not to change or echo what passes.
            tty.setraw(port.fileno())
            print(f"it says: {port.readline().decode().strip()}")
    # It is unplugged here, and still reserved.
print("it is given back")
