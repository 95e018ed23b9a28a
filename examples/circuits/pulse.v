// A square wave of FREQUENCY hertz on the measured pin, from the board's 48 MHz clock.
//
// FREQUENCY must divide 24,000,000, so that half a period is a whole number of clock cycles and
// the count of pulses in one second is exact. iCE40 flip-flops start at 0, so the first rising
// edge comes half a period after configuration, and no reset is needed.

module pulse #(
    parameter FREQUENCY = 1000
) (
    input  wire clk,
    output reg  out
);
    localparam HALF_PERIOD = 24_000_000 / FREQUENCY;
    localparam WIDTH = $clog2(HALF_PERIOD);

    reg [WIDTH-1:0] count;

    always @(posedge clk) begin
        if (count == HALF_PERIOD - 1) begin
            count <= 0;
            out <= ~out;
        end else begin
            count <= count + 1;
        end
    end
endmodule
