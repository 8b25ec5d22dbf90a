/* SPDX-License-Identifier: MIT */
/* The bytes of the static `cell` program, carried by the executable. CELL_PATH is given by the build. */
        .section .rodata
        .balign 16
        .global dirigent_cell_begin
        .global dirigent_cell_end
dirigent_cell_begin:
        .incbin CELL_PATH
dirigent_cell_end:
        .section .note.GNU-stack,"",%progbits
