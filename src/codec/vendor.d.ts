/** The parts that we use of two CommonJS packages which bring no types of their own. */

declare module 'fast-crc32c' {
  const crc32c: {
    /** CRC-32C of the bytes, continuing from `initial` (the CRC of what came before). */
    calculate(data: Uint8Array, initial?: number): number;
  };
  export default crc32c;
}

declare module 'lz4' {
  const lz4: {
    /** Largest size that a block of `bytes` can grow to. */
    encodeBound(bytes: number): number;
    /** Bytes written into `target[start, end)`, or 0 when the block does not fit there. */
    encodeBlock(source: Uint8Array, target: Uint8Array, start?: number, end?: number): number;
    /** Bytes written into `target`, or a negative number when the block is malformed or too long. */
    decodeBlock(source: Uint8Array, target: Uint8Array): number;
  };
  export default lz4;
}
