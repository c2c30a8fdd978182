# A kernel that is started in real mode, as old ones of Linux, by boot protocol 2.03. It says on the
# first serial port what it was given, which it has the BIOS copy from above 1 MiB, and ends with
# code 0 by the exit port 0xf4.

.code16
.text

.set COM1, 0x3f8
.set EXIT, 0xf4
# Where it is loaded; nothing passes that to it.
.set SEGMENT, 0x1000
.set SETUP_SECTORS, 1

    .org 0x1f1
    .byte SETUP_SECTORS
    .org 0x1fe
    .word 0xaa55
    .byte 0xeb, start - header      # a jump
header:
    .ascii "HdrS"
    .word 0x203
    .org 0x211
    .byte 1                         # loaded at 1 MiB
    .org 0x214
    .long 0x100000
initrd:  .long 0
length:  .long 0
    .org 0x228
cmdline: .long 0
    .long 0x37ffffff

start:
    mov $words, %si
    call print
    mov cmdline, %eax
    mov %ax, %si
    and $15, %si
    shr $4, %eax
    push %ds
    mov %ax, %ds
    call print
    pop %ds

    mov $main, %si
    call print
    mov $0x100000, %eax
    mov $16, %cx
    call fetch
    mov $buffer, %si
    call print

    mov $module, %si
    call print
    mov initrd, %eax
    mov length, %cx
    inc %cx
    call fetch
    mov length, %bx
    movb $0, buffer(%bx)
    mov $buffer, %si
    call print

    mov $done, %si
    call print
    xor %al, %al
    out %al, $EXIT
1:  hlt
    jmp 1b

# %cx bytes from the address %eax to the buffer: INT 15h, function 87h.
fetch:
    mov %eax, source + 2
    movb $0x93, source + 5          # data; this was the address's last byte
    shr $24, %eax
    mov %al, source + 7
    shr $1, %cx
    push %ds
    pop %es
    mov $table, %si
    mov $0x87, %ah
    int $0x15
    jc 2f
    ret
2:  mov $failed, %si
    call print
    mov $1, %al
    out %al, $EXIT

# The text at %ds:%si, up to a zero.
print:
    lodsb
    test %al, %al
    jz 3f
    mov %al, %bl
    mov $COM1 + 5, %dx
4:  in (%dx), %al
    test $0x20, %al
    jz 4b
    mov $COM1, %dx
    mov %bl, %al
    out %al, (%dx)
    jmp print
3:  ret

words:  .asciz "\nwords: "
main:   .asciz "\nmain part: "
module: .asciz "\ninitrd: "
done:   .asciz "\nthat is all\n"
failed: .asciz "the BIOS could not copy\n"

# Descriptors, of which the BIOS fills in the others.
table:
    .quad 0, 0
source:
    .word 0xffff, 0, 0, 0
    .word 0xffff, buffer
    .byte SEGMENT >> 12, 0x93, 0, 0
    .quad 0, 0
buffer:
    .skip 64

    .org 512 * (SETUP_SECTORS + 1)
    .asciz "at 1 MiB"
    .balign 512
