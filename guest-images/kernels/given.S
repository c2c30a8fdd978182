# A kernel that prints on the first serial port what it was given at its start, and ends with code 0 by
# the exit port 0xf4. Assembled with PVH=1 it has a PVH entry point, otherwise a multiboot header.
#
# If its command line ends in "init", it sends INIT to the boot processor instead, which starts the
# machine again. If it ends in "warm", it resets the machine and has asked to go on then at an address
# in real mode; there it ends with what it left in port 0xe0 before. If it ends in "suspend", it asks for
# a reset and at once to be suspended, is suspended in its second start, and powers off in its third.

.code32
.text

.set COM1, 0x3f8
.set EXIT, 0xf4
.set ICR, 0xfee00300
.set MULTIBOOT, 0x1badb002
# A port of the test device that keeps what is written to it.
.set KEPT, 0xe0
.set WARM, 0x1000
# Memory that keeps, over resets, how often it was started.
.set STARTS, 0x500000
.set PM1_CONTROL, 0x604
.set SUSPEND, 0x2400
.set POWER_OFF, 0x2000
.set RESET, 0xcf9
# Modules on pages, the size of memory.
.set FLAGS, 3

.if PVH
.section .note.pvh, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long start
.text
.else
    .balign 4
    .long MULTIBOOT, FLAGS, -(MULTIBOOT + FLAGS)
.endif

.globl start
start:
    mov $stack, %esp
    mov %ebx, info
.if PVH
    cmpl $0x336ec578, (%ebx)
    mov $mark, %esi
    jne fail
    mov 24(%ebx), %edi              # the command line
    mov 12(%ebx), %ecx              # modules
    mov 16(%ebx), %ebp
    mov 48(%ebx), %edx              # ranges of memory
.else
    cmp $0x2badb002, %eax
    mov $mark, %esi
    jne fail
    mov 16(%ebx), %edi
    mov 20(%ebx), %ecx
    mov 24(%ebx), %ebp
    mov 44(%ebx), %eax              # bytes of the map, in entries of 24
    mov $24, %esi
    xor %edx, %edx
    div %esi
    mov %eax, %edx
.endif
    mov %edi, cmdline
    mov $words, %esi
    call print
    mov %edi, %esi
    call print
    mov $ranges, %esi
    call print
    lea '0'(%edx), %eax
    call put
    call newline

next_module:
    jecxz modules_done
    mov $module, %esi
    call print
    mov (%ebp), %ebx
.if PVH
    mov 8(%ebp), %edx
    add %ebx, %edx
    add $32, %ebp
.else
    mov 8(%ebp), %esi
    call print
    mov $colon, %esi
    call print
    mov 4(%ebp), %edx
    add $16, %ebp
.endif
1:  cmp %ebx, %edx
    je 2f
    mov (%ebx), %al
    call put
    inc %ebx
    jmp 1b
2:  call newline
    dec %ecx
    jmp next_module
modules_done:

    mov cmdline, %esi
1:  lodsb
    test %al, %al
    jnz 1b
    cmpl $0x74696e69, -5(%esi)      # "init"
    je send_init
    cmpl $0x6d726177, -5(%esi)      # "warm"
    je warm
    cmpl $0x646e6570, -5(%esi)      # "pend"
    je suspend
    mov $done, %esi
    call print
    xor %al, %al
    out %al, $EXIT
halt:
    hlt
    jmp halt

# To APIC id 0, asserted, edge.
send_init:
    mov $init, %esi
    call print
    movl $0, ICR + 0x10
    movl $0x4500, ICR
    jmp halt

# CMOS 0x0f says that the address is at 40:67, offset and segment.
warm:
    mov $go_on, %esi
    mov $WARM, %edi
    mov $(go_on_end - go_on), %ecx
    rep movsb
    movl $WARM, 0x467
    mov $0x0f, %al
    out %al, $0x70
    mov $0x0a, %al
    out %al, $0x71
    mov $42, %al
    out %al, $KEPT
    mov $0xfe, %al
    out %al, $0x64
    jmp halt

suspend:
    incl STARTS
    mov $begin, %esi
    call print
    mov STARTS, %eax
    mov %eax, %ebx
    add $'0', %al
    call put
    call newline
    mov $SUSPEND, %ecx
    cmp $2, %ebx
    je 1f
    mov $POWER_OFF, %ecx
    ja 1f
    mov $RESET, %dx
    mov $2, %al
    out %al, (%dx)
    mov $6, %al
    out %al, (%dx)
    mov $SUSPEND, %ecx
1:  mov $PM1_CONTROL, %dx
    mov %ecx, %eax
    out %ax, (%dx)
    jmp halt

.code16
go_on:
    in $KEPT, %al
    out %al, $EXIT
1:  hlt
    jmp 1b
go_on_end:
.code32

fail:
    call print
    mov $1, %al
    out %al, $EXIT
    jmp halt

# The text at %esi, up to a zero.
print:
    lodsb
    test %al, %al
    jz 1f
    call put
    jmp print
1:  ret

newline:
    mov $'\n', %al
# %al, once the port is free.
put:
    push %edx
    push %eax
    mov $COM1 + 5, %dx
1:  in (%dx), %al
    test $0x20, %al
    jz 1b
    pop %eax
    mov $COM1, %dx
    out %al, (%dx)
    pop %edx
    ret

.section .rodata
mark:   .asciz "started without its mark\n"
words:  .asciz "words: "
ranges: .asciz "\nranges of memory: "
module: .asciz "module "
colon:  .asciz ": "
done:   .asciz "that is all\n"
init:   .asciz "sending INIT\n"
begin:  .asciz "start "

.bss
    .balign 4
info:    .skip 4
cmdline: .skip 4
    .skip 4096
stack:
