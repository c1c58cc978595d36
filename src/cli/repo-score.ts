import { Command, Option } from 'commander';
import { BonsaiError } from '../base/errors.ts';
import type { Dataset } from '../port/data/data-module.ts';
import { evaluate } from '../port/evaluate/evaluate.ts';
import { alignedTable } from '../report/table.ts';
import { readManifest, verifyVariant } from '../repository/store.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { dataOption, jsonOption, loadData, seedOption, threadsOption, workOption } from './options.ts';
import { parseNumber } from './parse.ts';

interface ScoreOptions {
  readonly data: string;
  readonly tolerance: number;
  readonly threads: number;
  readonly seed: number;
  readonly work: string;
  readonly json?: boolean;
}

/** What `repo score` found of one version. Accuracies are shares in [0, 1]. */
export interface ScoredVersion {
  readonly version: number;
  readonly measured: number;
  /** What the repository says. */
  readonly recorded: number;
  /** Whether they differ by no more than the tolerance. */
  readonly ok: boolean;
}

/** 0.05 points: other kernels than those of the machine that scored first round differently. */
const DEFAULT_TOLERANCE = 0.0005;

export function repoScoreCommand(): Command {
  return new Command('score')
    .description(
      "measure the accuracy of a task's versions again, and compare it with what the repository says",
    )
    .argument('<repository>')
    .argument('<task>')
    .addOption(dataOption())
    .addOption(
      new Option('--tolerance <share>', 'by how much an accuracy in [0, 1] may differ from the recorded one')
        .argParser(parseNumber(0, 1))
        .default(DEFAULT_TOLERANCE),
    )
    .addOption(threadsOption())
    .addOption(seedOption())
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Example:
  $ bonsai repo score models mnist --data mnist
${EXIT_CODE_HELP}`,
    )
    .action(async (root: string, task: string, options: ScoreOptions) => {
      const context = processContext(options);
      const dataset = await loadData(context, options);
      const rows = await interruptible(context.signal, 'Start it again.', () =>
        scoreTask(context, root, task, { ...options, dataset }),
      );
      const percent = (share: number) => (100 * share).toFixed(2);
      context.result(
        rows,
        alignedTable([
          ['version', 'measured %', 'recorded %', ''],
          ...rows.map(({ version, measured, recorded, ok }) => [
            String(version),
            percent(measured),
            percent(recorded),
            ok ? 'ok' : 'differs',
          ]),
        ]).trimEnd(),
      );
      const wrong = rows.filter(({ ok }) => !ok);
      if (wrong.length === 0) return;
      throw new BonsaiError(
        'corrupt_repository',
        `${wrong.length} of ${rows.length} versions of ${task} do not have the accuracy that the repository records on ${dataset.name}'s ` +
          `${dataset.test.count} test examples, within ${percent(options.tolerance)} points. Either the data is another one, or the record is wrong: ` +
          '"bonsai port" writes it anew.',
      );
    });
}

/** @throws BonsaiError `corrupt_repository` where a network is not the one that the manifest tells */
async function scoreTask(
  context: Context,
  root: string,
  task: string,
  options: ScoreOptions & { readonly dataset: Dataset },
): Promise<ScoredVersion[]> {
  const { variants } = await readManifest(root, task);
  const bar = context.progress.task(`Scoring ${task}`, variants.length);
  const rows: ScoredVersion[] = [];
  for (const variant of variants) {
    const { version } = variant;
    const bytes = await verifyVariant(root, task, variant);
    const { accuracy: measured } = await evaluate(bytes, options.dataset.test, {
      threads: options.threads,
      signal: context.signal,
    });
    const recorded = variant.accuracy.test;
    rows.push({ version, measured, recorded, ok: Math.abs(measured - recorded) <= options.tolerance });
    bar.update(rows.length, `version ${version}: ${(100 * measured).toFixed(2)} %`);
  }
  bar.done(`${rows.length} versions`);
  return rows;
}
