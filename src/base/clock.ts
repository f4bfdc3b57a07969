/** Time is handed to the pure floors as a number; whoever needs to ask for it takes a Clock. */
export interface Clock {
  /** Milliseconds, monotonic, fractional, from an arbitrary start. */
  nowMs(): number;
}
