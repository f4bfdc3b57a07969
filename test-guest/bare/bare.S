/*
 * bare: a guest without any system, for a KVM that cannot run a whole kernel. QEMU loads it by the
 * multiboot protocol (`-kernel`), in 32-bit protected mode.
 *
 * Round after round it writes one word into each of 16 pages from 2 MiB on and prints `c N` on the
 * first serial port, N from 1; then it waits about 10 ms by the time-stamp counter.
 */
.set PAGES, 16
.set FIRST_PAGE, 0x200000
.set PAGE_BYTES, 4096
.set SERIAL, 0x3f8
.set WAIT_CYCLES, 25000000
.set MULTIBOOT_MAGIC, 0x1badb002

.code32
.section .multiboot, "a"
.align 4
.long MULTIBOOT_MAGIC, 0, -MULTIBOOT_MAGIC

.text
.globl start
start:
  cli
  movl $stack_end, %esp
  xorl %ebx, %ebx
round:
  incl %ebx

  movl $FIRST_PAGE, %edi
  movl $PAGES, %ecx
touch:
  movl %ebx, (%edi)
  addl $PAGE_BYTES, %edi
  loop touch

  movb $'c', %al
  call put
  movb $' ', %al
  call put
  /* Digits come lowest first: kept on the stack until all are known. */
  movl %ebx, %eax
  movl $10, %esi
  xorl %ecx, %ecx
digit:
  xorl %edx, %edx
  divl %esi
  pushl %edx
  incl %ecx
  testl %eax, %eax
  jnz digit
print:
  popl %eax
  addb $'0', %al
  call put
  loop print
  movb $'\n', %al
  call put

  rdtsc
  movl %eax, %esi
  movl %edx, %edi
  addl $WAIT_CYCLES, %esi
  adcl $0, %edi
wait:
  pause
  rdtsc
  cmpl %edi, %edx
  ja round
  jb wait
  cmpl %esi, %eax
  jb wait
  jmp round

/* Prints %al when the port can take it; keeps all registers. */
put:
  pushl %edx
  pushl %eax
  movw $(SERIAL + 5), %dx
busy:
  inb %dx, %al
  testb $0x20, %al
  jz busy
  popl %eax
  movw $SERIAL, %dx
  outb %al, %dx
  popl %edx
  ret

.bss
.align 16
.skip 4096
stack_end:
