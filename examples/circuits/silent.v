// A circuit that works but is never heard: the output compares a counter of ten states with a
// value that it never takes, so the measured pin stays low although logic drives it.

module silent (
    input  wire clk,
    output wire out
);
    reg [3:0] count;

    always @(posedge clk) count <= (count == 9) ? 0 : count + 1;

    assign out = (count == 12);
endmodule
