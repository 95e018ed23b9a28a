"""Boards that are plugged in: found, flashed, and handed to the kernel's USB/IP.

`Discovery` finds them and makes a `UsbBoard` of each; a `UsbPort` is the place where one is plugged
in; `usbip_host` gives what is at a port to a holder far away.
"""
