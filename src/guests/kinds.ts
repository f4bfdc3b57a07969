/** Names of the kinds of machine; what stands behind them is in index.ts. */

export const GUEST_KINDS = ['sim', 'qemu'] as const;
export type GuestKind = (typeof GUEST_KINDS)[number];
