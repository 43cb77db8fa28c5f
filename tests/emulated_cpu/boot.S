// The boot sector of a disk without an operating system: loads the NUM_SECTORS sectors after it to
// 0x10000, enters 64-bit mode with the registers of AVX-512 enabled, and jumps there.

.code16
.globl _start
_start:
  cli
  xorw %ax, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movw $0x7000, %sp
  movb %dl, drive
  movw $NUM_SECTORS, %cx
load_sector:
  pushw %cx
  movw $packet, %si
  movb $0x42, %ah                // the BIOS reads by the number of the sector
  movb drive, %dl
  int $0x13
  popw %cx
  jc fail
  incl packet_sector
  addw $0x20, packet_segment
  loop load_sector

  movw $0x92, %dx                // addresses above 1 MB
  inb %dx, %al
  orb $2, %al
  outb %al, %dx

  movl $0x2000, %edi             // page tables: each of the first 512 * 2 MB maps to itself
  xorl %eax, %eax
  movl $0xc00, %ecx
  rep stosl
  movl $0x3003, 0x2000
  movl $0x4003, 0x3000
  movl $0x83, %eax
  movl $0x4000, %edi
  movw $512, %cx
map_page:
  movl %eax, (%edi)
  addl $0x200000, %eax
  addl $8, %edi
  loop map_page
  movl $0x2000, %eax
  movl %eax, %cr3
  movl %cr4, %eax
  orl $0x40620, %eax             // PAE, OSFXSR, OSXMMEXCPT, OSXSAVE
  movl %eax, %cr4
  movl $0xc0000080, %ecx
  rdmsr
  orl $0x100, %eax               // long mode
  wrmsr
  lgdt gdt_pointer
  movl %cr0, %eax
  andl $~4, %eax                 // no emulation of the FPU
  orl $0x80000003, %eax          // protection, paging, and monitoring of the FPU
  movl %eax, %cr0
  ljmp $8, $long_mode
fail:
  hlt

.code64
long_mode:
  movw $16, %ax
  movw %ax, %ds
  movw %ax, %es
  movw %ax, %ss
  movl $0x3f00000, %esp
  xorl %ecx, %ecx
  xgetbv
  orl $0xe7, %eax                // x87, SSE, AVX, and the three parts of AVX-512
  xsetbv
  movl $0x10000, %eax
  call *%rax
stop:
  hlt
  jmp stop

.balign 8
gdt:
  .quad 0, 0x00209a0000000000, 0x0000920000000000
gdt_pointer:
  .word 23
  .long gdt
drive:
  .byte 0
.balign 4
packet:
  .byte 16, 0
  .word 1, 0
packet_segment:
  .word 0x1000
packet_sector:
  .long 1, 0
.org 510
.word 0xaa55
