import type { Chapter } from '../report/experiment-report.ts';
import type { Lab } from './lab.ts';

/** One question of the thesis' evaluation, asked again. `Results` are plain JSON: figures are drawn from nothing else. */
export interface Experiment<Results> {
  readonly name: string;
  /** Where the thesis has it, as in "Fig. 5.10, A.1". */
  readonly thesis: string;
  readonly question: string;
  /** Why it cannot be run here, as a sentence; undefined where it can. */
  obstacle?(lab: Lab): string | undefined;
  /** About how long it takes, for the time left. */
  estimateMs(lab: Lab): number;
  /** It needs nothing but the user's repository as it is: no server, no profiles of this machine. */
  readonly readsOnly?: true;
  /** @throws BonsaiError `aborted` on the lab's signal */
  run(lab: Lab): Promise<Results>;
  /** Pure. */
  draw(results: Results): Drawn;
}

/** What comes of results: a part of the report, tables for other programs, and the figures that count. */
export interface Drawn extends Pick<Chapter, 'parts'> {
  /** CSV texts by file name. */
  readonly files: Readonly<Record<string, string>>;
  readonly headlines: readonly Headline[];
}

/** One figure of the thesis beside ours. */
export interface Headline {
  readonly what: string;
  readonly thesis: string;
  readonly ours: string;
  /** What a reader has to know to compare the two. */
  readonly note: string;
}

/** Of any results: in the list that commands go through. */
export type AnyExperiment = Experiment<unknown>;
