import { BonsaiError, type ErrorCode } from '../base/errors.ts';

/** Exit codes of every command, as the help texts list them. */
export const EXIT = { ok: 0, failure: 1, usage: 2, noneFits: 3, aborted: 130 } as const;

const BY_CODE: Partial<Record<ErrorCode, number>> = {
  invalid_argument: EXIT.usage,
  invalid_config: EXIT.usage,
  unknown_policy: EXIT.usage,
  aborted: EXIT.aborted,
};

/** The exit code for anything thrown: usage errors 2, interruption 130, the rest 1. */
export function exitCodeOf(thrown: unknown): number {
  return thrown instanceof BonsaiError ? (BY_CODE[thrown.code] ?? EXIT.failure) : EXIT.failure;
}

export const EXIT_CODE_HELP = `
Exit codes: 0 done, 1 failed (the message says why), 2 wrong use, 130 interrupted.`;
