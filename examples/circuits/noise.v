// An irregular output: an 8-bit shift register with linear feedback (255 states), stepped every
// 375 clock cycles, which is 128,000 times a second. The pattern repeats after 95,625 cycles and
// has 64 rising edges in it, at uneven distances.
//
// The feedback is inverted (XNOR), so that the register may start at 0, as iCE40 flip-flops do.

module noise (
    input  wire clk,
    output wire out
);
    reg [8:0] prescaler;
    reg [7:0] shift;
    wire step = (prescaler == 374);

    always @(posedge clk) begin
        prescaler <= step ? 0 : prescaler + 1;
        if (step) shift <= {shift[6:0], ~(shift[7] ^ shift[5] ^ shift[4] ^ shift[3])};
    end

    assign out = shift[7];
endmodule
