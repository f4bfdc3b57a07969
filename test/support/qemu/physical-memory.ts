/** Writes a machine's guest-physical memory from outside, through QEMU's stub for debuggers. */
import { createConnection, type Socket } from 'node:net';

const WAIT_MS = 10_000;

/** Arguments for a QEMU whose memory is to be written. */
export function debuggable(path: string): string[] {
  return [
    '-chardev',
    `socket,id=debugger,path=${path},server=on,wait=off`,
    '-gdb',
    'chardev:debugger',
  ];
}

/**
 * Writes the bytes at each address, as a device of the machine would. The machine stands meanwhile, as under
 * any debugger, and runs on afterwards.
 */
export async function writePhysical(
  path: string,
  writes: readonly { readonly address: number; readonly bytes: Uint8Array }[],
): Promise<void> {
  const socket = createConnection(path);
  try {
    // Without it addresses are those of the guest's page tables.
    await ask(socket, 'Qqemu.PhyMemMode:1');
    for (const { address, bytes } of writes) {
      const hex = Buffer.from(bytes).toString('hex');
      await ask(socket, `M${address.toString(16)},${bytes.byteLength.toString(16)}:${hex}`);
    }
    await ask(socket, 'D');
  } finally {
    socket.destroy();
  }
}

/** One packet of the remote serial protocol of gdb; its answer must be OK. */
function ask(socket: Socket, packet: string): Promise<void> {
  const sum = [...Buffer.from(packet)].reduce((before, byte) => (before + byte) % 256, 0);
  return new Promise((resolve, reject) => {
    let text = '';
    const finish = (error: Error | null): void => {
      clearTimeout(timer);
      socket.off('data', read);
      socket.off('error', finish);
      if (error === null) resolve();
      else reject(error);
    };
    const read = (bytes: Buffer): void => {
      text += bytes.toString('latin1');
      // That the machine stands is told (`T02...`) whenever it comes to that, and is no answer.
      const packets = [...text.matchAll(/\$([^#]*)#[0-9a-f]{2}/g)].map(([, said]) => said ?? '');
      const answer = packets.find((said) => !said.startsWith('T'));
      if (answer === undefined) return;
      socket.write('+');
      finish(answer === 'OK' ? null : new Error(`'${packet}' was answered by '${answer}'`));
    };
    const timer = setTimeout(() => finish(new Error(`no answer to '${packet}'`)), WAIT_MS);
    socket.on('data', read);
    socket.once('error', finish);
    socket.write(`$${packet}#${sum.toString(16).padStart(2, '0')}`);
  });
}
