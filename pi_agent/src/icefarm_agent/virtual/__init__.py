"""Virtual boards: the farm without hardware, answering from the bitstream that was really sent.

`fpga` turns a bitstream into the waveform on the measured pin; the rest of the folder is how:

    image      is this a whole, undamaged iCE40UP5K bitstream?
    icestorm   where the tools are, and unpacking a bitstream into its tiles
    fabric     which routing switches are closed, and so what drives a wire
    netlist    the LUTs, carries and flip-flops that the output depends on
    feedback   combinational loops: do they settle, whatever the delays?
    expression a LUT's truth table as a Python expression
    program    the netlist as one generated Python function, run until its state repeats
    waveform   the result
    worker     the process that does all this, kept warm
    pool       such processes, replaced when they end
    cache      outcomes that need no simulation again
    fpga       the public face: `Simulator`, `Waveform`, `BitstreamError`, `ToolsMissing`
"""
