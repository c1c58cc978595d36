/** Time as an argument: only `cli/` makes the real one, tests and simulations bring their own. */
export interface Clock {
  /** Milliseconds on a monotonic scale with an arbitrary origin. */
  nowMs(): number;
  /** Milliseconds since the Unix epoch. */
  epochMs(): number;
}

export const systemClock: Clock = {
  nowMs: () => performance.now(),
  epochMs: () => performance.timeOrigin + performance.now(),
};
