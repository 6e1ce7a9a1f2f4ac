# A program for tests of mapped files, for i386 Linux. `mapper FILE` maps the first two pages of FILE, shared and
# writable, prints the first line of the first page and writes "mapped\n" at the begin of the second one, without
# a call that would write it to the file. Its exit status is 0, or the number of the step that failed.
#
# The bytes in mapper.hex are made of it with
#   as --32 -o mapper.o mapper.s
#   ld -m elf_i386 -N -s -e entry -o mapper mapper.o
#   xxd -p mapper mapper.hex
        .set    EXIT, 1
        .set    WRITE, 4
        .set    OPEN, 5
        .set    MMAP2, 192
        .globl  entry
        .text
entry:  movl    8(%esp), %ebx                   # the first argument
        movl    $2, %ecx                        # O_RDWR
        movl    $OPEN, %eax
        int     $0x80
        movl    $1, %ebx
        testl   %eax, %eax
        js      end
        movl    %eax, %edi
        movl    $MMAP2, %eax
        xorl    %ebx, %ebx
        movl    $0x2000, %ecx
        movl    $3, %edx                        # PROT_READ, PROT_WRITE
        movl    $1, %esi                        # MAP_SHARED
        xorl    %ebp, %ebp
        int     $0x80
        movl    $2, %ebx
        cmpl    $0xfffff000, %eax
        ja      end
        movl    %eax, %ebp
        movl    %eax, %ecx
        xorl    %edx, %edx
line:   incl    %edx
        cmpb    $'\n', -1(%ecx, %edx)
        jne     line
        movl    $1, %ebx
        movl    $WRITE, %eax
        int     $0x80
        movl    $0x7070616d, 0x1000(%ebp)       # "mapp"
        movl    $0x000a6465, 0x1004(%ebp)       # "ed", new line
        xorl    %ebx, %ebx
end:    movl    $EXIT, %eax
        int     $0x80
