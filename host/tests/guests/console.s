# A guest for tests of the console. It prints "ready", enables COM1's receive interrupt, and answers
# each byte: 'Q' halts for good, 'T' is a triple fault, 'L' loops without another word, 'F' prints
# 'x' for ever, anything else is sent back. Between bytes it halts.
#
# The bytes in console.bin.hex are made of it with
#   as --32 -o console.o console.s
#   ld -m elf_i386 -Ttext 0x100000 --oformat binary -e entry -o console.bin console.o
#   xxd -p console.bin console.bin.hex
        .code32
        .set    MAGIC, 0x1BADB002
        .set    FLAGS, 0x00010000               # load addresses follow
        .globl  entry
header: .long   MAGIC, FLAGS, -(MAGIC + FLAGS)
        .long   header, header, end, bss_end, entry

entry:  movl    $bss_end, %esp
        movl    $handler, %eax                  # interrupt gate for IRQ 4 at vector 24h
        movw    %ax, idt + 0x24 * 8
        movw    %cs, idt + 0x24 * 8 + 2
        movw    $0x8E00, idt + 0x24 * 8 + 4
        shrl    $16, %eax
        movw    %ax, idt + 0x24 * 8 + 6
        lidt    idtr
        movb    $0x11, %al                      # 8259: vectors from 20h, all but IRQ 4 masked
        outb    %al, $0x20
        movb    $0x20, %al
        outb    %al, $0x21
        movb    $0x04, %al
        outb    %al, $0x21
        movb    $0x01, %al
        outb    %al, $0x21
        movb    $0xEF, %al
        outb    %al, $0x21
        movl    $ready, %esi
1:      lodsb
        testb   %al, %al
        jz      2f
        call    put
        jmp     1b
2:      movw    $0x3FC, %dx                     # 16550: OUT2 lets interrupts through
        movb    $0x0B, %al
        outb    %al, %dx
        movw    $0x3F9, %dx
        movb    $0x01, %al
        outb    %al, %dx
        sti
3:      hlt
        jmp     3b

put:    pushl   %eax                            # AL to COM1
        movw    $0x3FD, %dx
1:      inb     %dx, %al
        testb   $0x20, %al
        jz      1b
        popl    %eax
        movw    $0x3F8, %dx
        outb    %al, %dx
        ret

handler:
        pusha
1:      movw    $0x3FD, %dx
        inb     %dx, %al
        testb   $0x01, %al
        jz      2f
        movw    $0x3F8, %dx
        inb     %dx, %al
        cmpb    $'Q', %al
        je      quit
        cmpb    $'T', %al
        je      triple
        cmpb    $'L', %al
        je      loop
        cmpb    $'F', %al
        je      flood
        call    put
        jmp     1b
2:      movb    $0x20, %al
        outb    %al, $0x20
        popa
        iret

quit:   cli
        hlt
        jmp     quit
triple: lidt    nothing
        int3
loop:   jmp     loop
flood:  movb    $'x', %al
        call    put
        jmp     flood

ready:  .asciz  "ready\r\n"
idtr:   .word   0x25 * 8 - 1
        .long   idt
nothing: .word  0
        .long   0
        .balign 8
end:
        .set    idt, end
        .set    bss_end, end + 0x25 * 8 + 4096
