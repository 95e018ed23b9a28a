"""The agent and the client on real kernels, in emulated machines with virtual boards.

`machine.py` boots Debian's kernel in QEMU with this machine's own files and runs programs there
(`guest.py` is its end inside, `warm.py` spares slow starts there); `initrd.py` says what is booted.
`boards.py` plugs virtual pico-ice boards into such a machine; inside, `picos.py` is what serves it,
made of `gadgets.py` (how a board shows itself on USB), `firmwares.py` (what it says) and
`bootloader.py` (its disk). `uf2.py` makes firmware images.
"""
