# An i386 Linux program that computes for ever with its state in x87 and SSE registers only, and writes
# that state, 128 bytes, to standard output after every 50000 steps. `src/floats.rs` computes the same.
# The loops use no flags: v86 forgets them when it restores a snapshot.
#
# The bytes in floats.hex are made of it with
#   as --32 -o floats.o floats.s
#   ld -m elf_i386 -Ttext 0x08048000 --oformat binary -e entry -o floats floats.o
#   xxd -p floats floats.hex
        .code32
        .globl  entry
header: .byte   0x7F, 'E', 'L', 'F', 1, 1, 1    # 32 bits, little-endian
        .zero   9
        .word   2, 3                            # executable, i386
        .long   1, entry, program - header, 0, 0
        .word   52, 32, 1, 0, 0, 0
program:
        .long   1, 0, header, header, end - header, bss_end - header, 7, 0x1000

entry:  fldt    pi
        fldt    log2e
        fildl   factor
        fildl   seed_y
        fildl   modulus
        fildl   seed_x                          # st: x, modulus, y, factor, log2e, pi
        movups  lanes, %xmm0
        movups  chaos, %xmm1
        movups  rate, %xmm2
        movups  ones, %xmm4
        pxor    %xmm5, %xmm5
        pxor    %xmm6, %xmm6
        pxor    %xmm7, %xmm7

next:   movl    $50000, %ecx
step:   .rept   2                               # x = (x * factor + 1) mod modulus, then y
        fmul    %st(3), %st                     # up to 62 bits: exact with 64 bits of precision only
        fld1
        faddp
        fprem
        fxch    %st(2)
        .endr
        movdqa  %xmm0, %xmm3                    # four times xorshift
        pslld   $13, %xmm3
        pxor    %xmm3, %xmm0
        movdqa  %xmm0, %xmm3
        psrld   $17, %xmm3
        pxor    %xmm3, %xmm0
        movdqa  %xmm0, %xmm3
        pslld   $5, %xmm3
        pxor    %xmm3, %xmm0
        movapd  %xmm4, %xmm3                    # logistic map, rounded in every step
        subpd   %xmm1, %xmm3
        mulpd   %xmm3, %xmm1
        mulpd   %xmm2, %xmm1
        paddd   %xmm0, %xmm5
        pxor    %xmm1, %xmm6
        paddd   %xmm5, %xmm7
        loop    step

        fld     %st
        fistpll record
        fld     %st(2)
        fistpll record + 8
        fld     %st(5)
        fstpt   record + 16
        fld     %st(4)
        fstpt   record + 26
        movups  %xmm0, record + 48
        movups  %xmm1, record + 64
        movups  %xmm5, record + 80
        movups  %xmm6, record + 96
        movups  %xmm7, record + 112
        movl    $4, %eax                        # write(1, record, 128)
        movl    $1, %ebx
        movl    $record, %ecx
        movl    $128, %edx
        int     $0x80
        jmp     next

pi:     .quad   0xC90FDAA22168C235
        .word   0x4000
log2e:  .quad   0xB8AA3B295C17F0BC
        .word   0x3FFF
factor: .long   1103515245
modulus: .long  2147483647
seed_x: .long   1
seed_y: .long   20220607
lanes:  .long   1, 0x12345678, 0x9ABCDEF0, 0xFFFFFFFF
chaos:  .double 0.25, 0.7
rate:   .double 3.99, 3.75
ones:   .double 1.0, 1.0
end:
        .set    record, end
        .set    bss_end, end + 128
