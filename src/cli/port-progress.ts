import { formatSeconds } from '../base/duration.ts';
import type { FoundVariant, PortProgress, PortStep } from '../port/pipeline/types.ts';
import type { TrainingProgress } from '../port/train/train.ts';
import { alignedTable } from '../report/table.ts';
import type { Context } from './context.ts';
import type { Board, ProgressTask } from './progress.ts';
import { showTraining } from './train.ts';

const STEP_NAMES: Readonly<Record<PortStep, string>> = {
  normalize: 'Finding the input of',
  goal: 'Searching widths of',
  means: 'Gathering means for',
  importance: 'Gathering importance for',
  reestimate: 'Re-estimating BatchNorm of',
  'fine-tune': 'Fine-tuning',
  evaluate: 'Scoring',
  latency: 'Measuring latency of',
  throughput: 'Measuring throughput of',
  quantize: 'Quantising',
  compare: 'Comparing INT8 of',
};

export interface PortView {
  show(progress: PortProgress): void;
  found(variants: readonly FoundVariant[]): void;
  /** Leaves the last state standing. */
  close(): void;
  /** A sentence on what was reused, once all is done; undefined where nothing was. */
  reuse(): string | undefined;
}

/**
 * What a porting shows of itself. On a terminal a table of the variants found so far, redrawn in place, with the step
 * in progress and the time left below; elsewhere one line as each step begins and ends, and one for each variant.
 * @param budgetEndsMs on the clock's scale
 */
export function portView(
  context: Pick<Context, 'progress' | 'clock'>,
  options: { readonly budgetEndsMs?: number } = {},
): PortView {
  const board = context.progress.board?.();
  const [counted, reuse] = countSteps();
  const view =
    board === undefined ? plainView(context) : boardView(board, context.clock.nowMs, options.budgetEndsMs);
  return {
    ...view,
    show(progress) {
      counted(progress);
      view.show(progress);
    },
    reuse,
  };
}

function plainView({ progress }: Pick<Context, 'progress'>): Omit<PortView, 'reuse'> {
  let bar: ProgressTask | undefined;
  let [told, countedMs] = [0, 0];
  return {
    show({ step, subject, state, detail, remainingMs }) {
      if (state === 'reused') return;
      bar ??= progress.task(`${STEP_NAMES[step]} ${subject}`, 1);
      if (remainingMs !== undefined) countedMs = remainingMs;
      if (state === 'finished') {
        bar.done('done');
        bar = undefined;
      } else if (step === 'fine-tune' && detail !== undefined) {
        showTraining(bar, detail as TrainingProgress); // What trainNetwork reports.
      }
    },
    found(variants) {
      for (const variant of variants.slice(told)) {
        const left =
          countedMs > 0 ? `; about ${formatSeconds(countedMs / 1000)} for the variants to come` : '';
        progress.say(`Found ${lineOf(variant)}${left}`);
      }
      told = variants.length;
    },
    close() {},
  };
}

function boardView(
  board: Board,
  nowMs: () => number,
  budgetEndsMs: number | undefined,
): Omit<PortView, 'reuse'> {
  let variants: readonly FoundVariant[] = [];
  let last: PortProgress | undefined;
  let isOpen = true;
  const draw = () => board.show(boardLines(variants, last, budgetEndsMs && budgetEndsMs - nowMs()));
  return {
    show(progress) {
      last = progress;
      if (progress.state !== 'reused') draw();
    },
    found(given) {
      variants = given;
      draw();
    },
    close() {
      if (!isOpen) return;
      isOpen = false;
      last = undefined;
      // What follows on standard output stands apart from it.
      if (variants.length > 0) board.show([...boardLines(variants, undefined, undefined), '']);
      board.close();
    },
  };
}

/** The table of the variants found so far, the step in progress, and the time left. */
export function boardLines(
  variants: readonly FoundVariant[],
  progress: PortProgress | undefined,
  budgetLeftMs: number | undefined,
): string[] {
  const lines = variants.length === 0 ? [] : foundTable(variants).trimEnd().split('\n');
  if (progress === undefined) return lines;
  const { step, subject, done, total, remainingMs, detail } = progress;
  const training = step === 'fine-tune' ? (detail as TrainingProgress | undefined) : undefined; // What trainNetwork reports.
  const figures =
    training === undefined
      ? ''
      : `  ${barOf(training.workRatio)} loss ${training.loss.toFixed(3)}, ${(100 * training.runningAccuracy).toFixed(1)} % right`;
  lines.push('', `${STEP_NAMES[step]} ${subject}${figures}`);
  const leftMs = remainingMs === undefined ? undefined : remainingMs + (training?.remainingMs ?? 0);
  lines.push(
    [
      `${done} of ${total} variants`,
      ...(leftMs === undefined ? [] : [`about ${formatSeconds(leftMs / 1000)} left`]),
      ...(budgetLeftMs === undefined ? [] : [`${formatSeconds(budgetLeftMs / 1000)} of the budget`]),
    ].join(' · '),
  );
  return lines;
}

/** Variants as they were found: accuracy, work, speed, and whether they are on a frontier so far. */
export function foundTable(variants: readonly FoundVariant[]): string {
  return alignedTable([
    ['variant', 'accuracy %', 'MMACs', 'latency ms', 'throughput /s', 'frontier'],
    ...variants.map((found) => {
      const { name, variant, latencyMs, isOnFrontier } = found;
      return [
        name,
        (100 * variant.accuracy.test).toFixed(2),
        (variant.macs / 1e6).toFixed(2),
        latencyMs.median.toFixed(2),
        rpsOf(found)?.toFixed(1) ?? '-',
        isOnFrontier ? 'yes' : '',
      ];
    }),
  ]);
}

function lineOf(found: FoundVariant): string {
  const { name, variant, latencyMs, isOnFrontier } = found;
  const rps = rpsOf(found);
  return [
    `${name}: ${(100 * variant.accuracy.test).toFixed(2)} %`,
    `${(variant.macs / 1e6).toFixed(2)} MMACs`,
    `${latencyMs.median.toFixed(2)} ms`,
    ...(rps === undefined ? [] : [`${rps.toFixed(1)}/s`]),
    isOnFrontier ? 'on the frontier' : 'not on the frontier',
  ].join(', ');
}

function rpsOf({ variant }: FoundVariant): number | undefined {
  return Object.values(variant.profiles)[0]?.throughputRps.median; // The porting's target is the only one.
}

const BAR_CELLS = 24;

function barOf(share: number): string {
  const full = Math.round(BAR_CELLS * Math.min(1, Math.max(0, share)));
  return `${'■'.repeat(full)}${'·'.repeat(BAR_CELLS - full)} ${Math.round(100 * share)} %`;
}

/** Counts what was reused and what was done. */
function countSteps(): [(progress: PortProgress) => void, () => string | undefined] {
  let [reused, done] = [0, 0];
  return [
    ({ state }) => {
      if (state === 'reused') reused++;
      if (state === 'finished') done++;
    },
    () => {
      if (reused === 0) return undefined;
      return done === 0
        ? `Reused all ${reused} steps of an earlier run.`
        : `Reused ${reused} of ${reused + done} steps from an earlier run; ${done} done now.`;
    },
  ];
}
