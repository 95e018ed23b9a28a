"""What the kernel and udev say of real boards, as data; and a bus to plug them in."""

from dataclasses import replace

from icefarm_agent.usb.device import Disk, Interface, Tty, UsbDevice

RUNNING = UsbDevice(
    busid="1-1.2",
    syspath="/sys/devices/platform/scb/fd500000.pcie/usb1/1-1/1-1.2",
    vendor_id=0x2E8A,
    product_id=0x000A,
    model="Pico",
    serial="E6614C311B7E0001",
    busnum=1,
    devnum=7,
    speed="12",
    driver="usb",
    ttys=(Tty("/dev/ttyACM0", 0),),
    disks=(),
    bcd_device=0x0100,
    device_class=0xEF,
    device_subclass=2,
    device_protocol=1,
    configuration_value=1,
    configurations=1,
    interfaces=(Interface(0, 2, 2, 0), Interface(1, 10, 0, 0)),
)
BOOTLOADER = replace(
    RUNNING,
    product_id=0x0003,
    model="RP2_Boot",
    serial="E0C9125B0D9B",
    ttys=(),
    disks=(Disk("/dev/sda", "RPI-RP2", "vfat"),),
)
MOUSE = replace(
    RUNNING, vendor_id=0x046D, product_id=0xC077, model="USB_Mouse", serial=None, ttys=()
)


class Bus(dict[str, UsbDevice]):
    """What is plugged in, by place."""

    def plug(self, busid: str, device: UsbDevice, **changes: object) -> None:
        self[busid] = replace(device, busid=busid, **changes)  # type: ignore[arg-type]
