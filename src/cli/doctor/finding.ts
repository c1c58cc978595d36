/** How a finding bears on running here: `warn` for what works but worse than it could, `fail` for what does not work. */
export type FindingStatus = 'ok' | 'warn' | 'fail';

/** What one check found. */
export interface Finding {
  /** What was looked at, such as `memory` or `port 8000`. */
  readonly name: string;
  readonly status: FindingStatus;
  /** What is there, with its numbers. */
  readonly found: string;
  /** What to do, a sentence; absent where there is nothing to do. */
  readonly advice?: string;
}

/** A number of bytes as people read it: `512 MiB`, `15.6 GiB`. */
export function bytesText(bytes: number): string {
  const gib = bytes / 2 ** 30;
  return gib >= 1 ? `${gib.toFixed(1)} GiB` : `${Math.round(bytes / 2 ** 20)} MiB`;
}
