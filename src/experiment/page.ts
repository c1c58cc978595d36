import { formatSeconds } from '../base/duration.ts';
import { type Chapter, renderExperimentReport } from '../report/experiment-report.ts';
import type { AnyExperiment, Drawn } from './experiment.ts';
import type { StoredResults } from './store.ts';

/** The experiment's own figures and tables of results that were stored; undefined where there are none. */
export function drawn(experiment: AnyExperiment, stored: StoredResults | undefined): Drawn | undefined {
  if (stored?.results === undefined) return undefined;
  // Written by this very experiment: `readResults` has compared the name.
  return experiment.draw(stored.results);
}

/** The report of all results in a folder. Pure. */
export function reportPage(
  entries: readonly { readonly experiment: AnyExperiment; readonly stored: StoredResults }[],
): string {
  const drawings = entries.map(({ experiment, stored }) => drawn(experiment, stored));
  const chapters = entries.map(
    ({ experiment, stored }, i): Chapter => ({
      name: experiment.name,
      source: experiment.thesis,
      question: experiment.question,
      parts: drawings[i]?.parts ?? [],
      ...(stored.absent !== undefined && { absent: stored.absent }),
      made: [['Measured', `${stored.measuredAt}, in ${formatSeconds(stored.tookMs / 1000)}`], ...stored.made],
    }),
  );
  const tookMs = entries.reduce((sum, { stored }) => sum + stored.tookMs, 0);
  const newest =
    entries
      .map(({ stored }) => stored.measuredAt)
      .toSorted()
      .at(-1) ?? '';
  return renderExperimentReport({
    title: "The thesis' evaluation, run again",
    lead:
      "J.L. Buijnsters' figures (DNN-porting for maximizing inference hardware utilisation at the Edge, TU Delft 2023) with the same axes, " +
      `measured anew with Bonsai's own networks, server and policies. ${newest.slice(0, 10)}, ${formatSeconds(tookMs / 1000)} of measuring.`,
    headlines: drawings.flatMap((each) =>
      (each?.headlines ?? []).map(({ what, thesis, ours, note }) => [what, thesis, ours, note] as const),
    ),
    chapters,
    setting: entries.at(-1)?.stored.made ?? [],
  });
}
