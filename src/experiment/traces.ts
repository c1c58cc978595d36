import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { BonsaiError, InvalidArgumentError, systemReason } from '../base/errors.ts';
import type { DemandProfile } from '../load/arrivals.ts';
import { readTrace, type Trace, traceProfile, traceWindow } from '../load/trace.ts';
import { squareBursts } from '../simulate/demand.ts';

/** Recorded demand that experiments know, by the beginning of its file's name; docs/experiments.md says where it comes from. */
export const KNOWN_TRACES = [
  { name: 'Twitter 2018-04', file: /^twitter-2018-04.*persecond\.csv(\.gz)?$/, startMs: 0 },
  { name: 'Twitter 2021-08', file: /^twitter-2021-08-infadapter.*\.csv(\.gz)?$/, startMs: 0 },
  // The sums of minutes, a second for each: at the pace of a day in 24 minutes.
  { name: 'Azure Functions 2019', file: /^azure-functions-2019.*\.csv(\.gz)?$/, startMs: 0, replayMs: 1_000 },
  { name: 'Azure LLM 2023, code', file: /^azure-llm-2023-code.*\.csv(\.gz)?$/, startMs: 0 },
  { name: 'Azure LLM 2023, conversation', file: /^azure-llm-2023-conv.*\.csv(\.gz)?$/, startMs: 0 },
] as const;

export type KnownTrace = (typeof KNOWN_TRACES)[number]['name'];

/** The one that the thesis' own experiments replay. */
export const THESIS_TRACE: KnownTrace = 'Twitter 2018-04';

/**
 * Looks at a folder of recorded demand before anything is measured with it.
 * @returns what it has of the known traces, with their files
 * @throws BonsaiError `missing_file` where it has none of them
 */
export async function checkTraces(
  folder: string,
): Promise<{ readonly names: readonly KnownTrace[]; readonly files: readonly string[] }> {
  let present: string[];
  try {
    present = (await readdir(folder)).toSorted();
  } catch (cause) {
    throw new BonsaiError(
      'missing_file',
      `--traces: ${folder} cannot be read as a folder of recorded demand: ${systemReason(cause)}. docs/experiments.md says where traces come from; without --traces, demand is made up.`,
      { cause },
    );
  }
  const found = KNOWN_TRACES.flatMap(({ name, file }) => {
    const first = present.find((each) => file.test(each));
    return first === undefined ? [] : [{ name, path: join(folder, first) }];
  });
  if (found.length === 0) {
    throw new BonsaiError(
      'missing_file',
      `--traces: ${folder} has none of the recorded demands that experiments know (${KNOWN_TRACES.map(({ name }) => name).join(', ')}). docs/experiments.md names their files; without --traces, demand is made up.`,
    );
  }
  return { names: found.map(({ name }) => name), files: found.map(({ path }) => path) };
}

/** A trace of a folder; undefined where it has none of that name. @throws what `readTrace` throws */
export async function knownTrace(folder: string, name: KnownTrace): Promise<Trace | undefined> {
  const known = KNOWN_TRACES.find((each) => each.name === name)!;
  const file = (await readdir(folder)).toSorted().find((each) => known.file.test(each));
  if (file === undefined) return undefined;
  const trace = await readTrace(join(folder, file));
  return 'replayMs' in known ? { ...trace, intervalMs: known.replayMs } : trace;
}

/**
 * Windows of a trace for several tasks, one after the other, each with its mean. At the end of the trace they begin again, so that they overlap as
 * little as it allows. A window in which nothing was asked (traces have gaps) gives way to a later one.
 * @throws InvalidArgumentError for a trace that is shorter than a window, or in which nothing was ever asked
 */
export function windowsOf(trace: Trace, meansRps: readonly number[], lengthMs: number): DemandProfile[] {
  const lastStartMs = trace.counts.length * trace.intervalMs - lengthMs;
  const tries = Math.ceil((lastStartMs + lengthMs) / lengthMs) + meansRps.length;
  let next = 0;
  const nextWindow = (): Trace => {
    for (const last = next + tries; lastStartMs >= 0 && next < last; ) {
      const startMs = (next++ * lengthMs) % (lastStartMs + trace.intervalMs);
      const window = traceWindow(trace, startMs, startMs + lengthMs);
      if (window.counts.some((count) => count > 0)) return window;
    }
    throw new InvalidArgumentError(
      `A trace of ${trace.counts.length} intervals of ${trace.intervalMs} ms has no window of ${lengthMs} ms with any request.`,
    );
  };
  return meansRps.map((meanRps) => traceProfile(nextWindow(), meanRps));
}

/** Where nothing was recorded: bursts over a slow wave. */
export function burstsOf(meansRps: readonly number[], lengthMs: number, seed: number): DemandProfile[] {
  return meansRps.map((meanRps, k) =>
    squareBursts({ seconds: Math.ceil(lengthMs / 1000), meanRps, seed: seed * 10 + k + 1 }),
  );
}
