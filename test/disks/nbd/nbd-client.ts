/** What an NBD client sends, for tests. */

const OPTION_MAGIC = Buffer.from('IHAVEOPT');

export function clientFlags(flags = 3): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(flags);
  return bytes;
}

export function option(kind: number, data: Buffer = Buffer.alloc(0)): Buffer {
  const numbers = Buffer.alloc(8);
  numbers.writeUInt32BE(kind, 0);
  numbers.writeUInt32BE(data.byteLength, 4);
  return Buffer.concat([OPTION_MAGIC, numbers, data]);
}

export function go(name: string): Buffer {
  const data = Buffer.alloc(6 + Buffer.byteLength(name));
  data.writeUInt32BE(Buffer.byteLength(name), 0);
  data.write(name, 4);
  return option(7, data);
}

export interface RequestFields {
  readonly type: number;
  readonly cookie?: bigint;
  readonly offset?: bigint;
  readonly length?: number;
  readonly flags?: number;
  readonly data?: Uint8Array;
}

export function request(fields: RequestFields): Buffer {
  const bytes = Buffer.alloc(28);
  bytes.writeUInt32BE(0x25609513, 0);
  bytes.writeUInt16BE(fields.flags ?? 0, 4);
  bytes.writeUInt16BE(fields.type, 6);
  bytes.writeBigUInt64BE(fields.cookie ?? 0n, 8);
  bytes.writeBigUInt64BE(fields.offset ?? 0n, 16);
  bytes.writeUInt32BE(fields.length ?? fields.data?.byteLength ?? 0, 24);
  return Buffer.concat([bytes, fields.data ?? Buffer.alloc(0)]);
}
