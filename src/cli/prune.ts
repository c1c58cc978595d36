import { join } from 'node:path';
import { Command, Option } from 'commander';
import { BonsaiError, InvalidArgumentError } from '../base/errors.ts';
import { ownValue } from '../base/own-value.ts';
import type { Model } from '../graph/model.ts';
import { writeModelFile } from '../graph/onnx/write.ts';
import { DATA_SPECS } from '../port/data/registry.ts';
import { type GoalResult, pruneToGoal } from '../port/goal.ts';
import { withImageInput } from '../port/image-input.ts';
import { fpgmByEngine } from '../port/importance/fpgm.ts';
import { gatherCriterion, gatherMeans } from '../port/importance/gather.ts';
import { pruneIteratively } from '../port/prune-iteratively.ts';
import { openStepCache } from '../port/step-cache.ts';
import { MASK_TOLERANCE, type Verification } from '../port/verify/mask-equivalence.ts';
import { verify } from '../port/verify/verify.ts';
import { alignedTable } from '../report/table.ts';
import { foldConstants } from '../transform/passes/fold-constants.ts';
import type { ChannelMeans } from '../transform/prune/compensate.ts';
import { formatGoal, type Goal, parseGoal } from '../transform/prune/goal.ts';
import {
  type Criterion,
  groupDefaults,
  MEMBERS,
  NORMALISATIONS,
  REDUCTIONS,
} from '../transform/prune/importance/criterion.ts';
import {
  CRITERIA,
  type CriterionName,
  DATA_CRITERIA,
  isDataCriterion,
  weightCriterion,
} from '../transform/prune/importance/table.ts';
import { distanceOf } from '../transform/prune/nearest.ts';
import {
  keptChannels,
  type PruneOptions,
  type PruneResult,
  prune,
  pruneDefaults,
  pruningOf,
  SCOPES,
} from '../transform/prune/prune.ts';
import { iterationDefaults, type PruningSchedule, SCHEDULES } from '../transform/prune/schedule.ts';
import { wholeGroups } from '../transform/prune/whole-groups.ts';
import { type Context, interruptible, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { checkIdleOptions, isChosen } from './idle-options.ts';
import {
  alignOption,
  checkRunnable,
  checkShapes,
  compactCount,
  type InputShapes,
  readNetworkFiles,
  resolveAlign,
  shapeOption,
} from './network.ts';
import { filesOfData, jsonOption, loadData, seedOption, workOption } from './options.ts';
import { parseInteger, parseNumberWithin } from './parse.ts';
import { checkWritableFile, forceOption } from './writable.ts';

interface PruneCommandOptions {
  readonly out: string;
  readonly force?: boolean;
  readonly ratio: number;
  readonly criterion: CriterionName;
  readonly scope: (typeof SCOPES)[number];
  readonly maxRatio: number;
  readonly goal?: Goal;
  readonly inner?: boolean;
  readonly skip: readonly string[];
  readonly compensate?: boolean;
  readonly schedule: PruningSchedule;
  readonly iterations: number;
  readonly align: 'auto' | number;
  readonly members: (typeof MEMBERS)[number];
  readonly reduce: (typeof REDUCTIONS)[number];
  readonly normalize: (typeof NORMALISATIONS)[number];
  readonly data?: string;
  readonly normalizeInput?: boolean;
  readonly verify?: number | true;
  readonly shape: InputShapes;
  readonly threads: number;
  readonly seed: number;
  readonly work: string;
  readonly json?: boolean;
}

/** The share of channels that most published figures are about. */
export const DEFAULT_RATIO = 0.5;
/** Draws of a group and channels for --verify without a number. */
export const DEFAULT_VERIFIED_GROUPS = 20;

export function pruneCommand(): Command {
  return new Command('prune')
    .description('Remove the least important channels of a network: ONNX in, smaller ONNX out.')
    .argument('<model>', 'any ONNX network')
    .requiredOption('--out <file>', 'the pruned network')
    .addOption(forceOption())
    .addOption(
      new Option('--ratio <share>', 'share of channels to remove, at least 0 and below 1')
        .argParser(parseRatio)
        .default(DEFAULT_RATIO),
    )
    .addOption(
      new Option(
        '--criterion <name>',
        `what makes a channel unimportant; ${DATA_CRITERIA.join(', ')} need --data`,
      )
        .choices(CRITERIA)
        .default(pruneDefaults.criterion),
    )
    .addOption(
      new Option(
        '--scope <scope>',
        'uniform: every group loses the share; global: the lowest scores of all groups go',
      )
        .choices(SCOPES)
        .default(pruneDefaults.scope),
    )
    .addOption(
      new Option(
        '--max-ratio <share>',
        'with --scope global or --goal, the most that a group may lose, above 0 and below 1',
      )
        .argParser(parseMaxRatio)
        .default(pruneDefaults.maxRatio),
    )
    .addOption(
      new Option(
        '--goal <goal>',
        'instead of a ratio, scope and schedule, which the search for widths replaces: flops=0.5 or params=0.3 (shares that are left, as nearly as widths allow), throughput=40/s or latency=5ms (measured here; ' +
          'throughput means 1 / latency of the engine alone, on --threads; on one thread the time that it waits for a ' +
          'busy CPU is subtracted)',
      )
        .argParser(parseGoal)
        .conflicts(['ratio', 'scope']),
    )
    .addOption(
      new Option('--target <machine>', 'where a goal of speed is measured: this machine alone can be (local)')
        .argParser(checkTarget)
        .default('local'),
    )
    .option('--inner', 'leave channels that several layers make together (residual streams) whole')
    .addOption(
      new Option(
        '--skip <layer>',
        'leave the channels of layers of this name whole; * for any characters; can be repeated',
      )
        .argParser((pattern: string, before: readonly string[]) => [...before, pattern])
        .default([], 'none'),
    )
    .option(
      '--compensate',
      'add what removed channels gave on average over --data to the biases behind them: keeps much of the accuracy until fine-tuning',
    )
    .addOption(
      new Option(
        '--schedule <name>',
        'one-shot, or in rounds that each score anew what the one before left: linear, agp (most of it early)',
      )
        .choices(SCHEDULES)
        .conflicts(['goal', 'compensate'])
        .default(iterationDefaults.schedule),
    )
    .addOption(
      new Option('--iterations <n>', 'rounds of --schedule linear or agp; bonsai port fine-tunes in between')
        .argParser(parseInteger(1, MAX_ITERATIONS))
        .default(iterationDefaults.iterations),
    )
    .addOption(alignOption())
    .addOption(
      new Option(
        '--members <which>',
        'weights that count: those that make a channel, or also those that read it',
      )
        .choices(MEMBERS)
        .default(groupDefaults.members),
    )
    .addOption(
      new Option('--reduce <how>', "how the scores of a group's layers become one")
        .choices(REDUCTIONS)
        .default(groupDefaults.reduce),
    )
    .addOption(
      new Option('--normalize <by>', 'what the scores of a group are divided by, so that groups compare')
        .choices(NORMALISATIONS)
        .default(groupDefaults.normalise),
    )
    .addOption(
      new Option(
        '--data <spec>',
        `labelled data, for the criteria that need it and --compensate: ${Object.keys(DATA_SPECS).join(', ')}`,
      ),
    )
    .option(
      '--normalize-input',
      "the network expects pixels normalised by the data's mean and deviation, as many exporters' do",
    )
    .addOption(
      new Option(
        '--verify [groups]',
        `compare pruned and masked network on so many random groups, 8 inputs each (default with the flag: ${DEFAULT_VERIFIED_GROUPS})`,
      ).argParser(parseInteger(1, MAX_VERIFIED_GROUPS)),
    )
    .addOption(shapeOption())
    .addOption(
      new Option('--threads <n>', 'threads of the engine, for --goal, --verify and --data')
        .argParser(parseInteger(1, 1024))
        .default(1),
    )
    .addOption(seedOption())
    .addOption(workOption())
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai prune resnet18.onnx --ratio 0.5 --out smaller.onnx --verify
  $ bonsai prune resnet18.onnx --ratio 0.3 --scope global --criterion fpgm --align 16 --out smaller.onnx
  $ bonsai prune resnet18.onnx --goal throughput=40/s --threads 1 --out fast.onnx

The network gets smaller, not retrained: fine-tune it (bonsai port does both). bonsai inspect shows what can go.
--verify removes random channels of random groups, in the end of all at once, and compares the outputs with those of the full network in which
nothing reads these channels; then the same with the network written and the channels that it lost. Beyond a relative error of ${MASK_TOLERANCE} nothing is written.
${EXIT_CODE_HELP}`,
    )
    .action(async (file: string, options: PruneCommandOptions, command: Command) => {
      const context = processContext(options);
      checkIdleOptions([
        {
          flag: '--max-ratio',
          isGiven: isChosen(command, 'maxRatio'),
          need: '--scope global or --goal',
          isMet: options.scope === 'global' || options.goal !== undefined,
        },
        {
          flag: '--iterations',
          isGiven: isChosen(command, 'iterations'),
          need: '--schedule linear or agp',
          isMet: options.schedule !== 'one-shot',
        },
        {
          flag: '--normalize-input',
          isGiven: options.normalizeInput === true,
          need: '--data',
          isMet: options.data !== undefined,
        },
      ]);
      if (isDataCriterion(options.criterion) && options.data === undefined) {
        throw new InvalidArgumentError(
          `The criterion ${options.criterion} has to see data: give it with --data, such as --data mnist.`,
        );
      }
      if (options.compensate && options.data === undefined) {
        throw new InvalidArgumentError(
          '--compensate has to see data: give it with --data, such as --data mnist.',
        );
      }
      const { model, reads } = await readNetworkFiles(file);
      checkShapes(model, options.shape);
      if (options.verify !== undefined || isTimed(options)) checkRunnable(model, options.shape);
      await checkWritableFile(options.out, {
        reads: [...reads, ...filesOfData(options.data)],
        force: options.force,
      });
      const result = await interruptible(context.signal, 'Nothing was written.', async () => {
        const scoring = await gathered(context, model, options);
        const startedMs = context.clock.nowMs();
        const pruned = await prunedBy(context, model, { ...options, ...scoring });
        const seconds = (context.clock.nowMs() - startedMs) / 1000;
        const verification =
          options.verify === undefined ? undefined : await verified(context, pruned, options.verify, options);
        await writeModelFile(pruned.model, options.out);
        return { pruned, seconds, verification };
      });
      context.result(pruningJson(result), pruningText(result, options.out), options.out);
    });
}

/** Whether networks are run to see how fast they are. */
function isTimed({ goal, align }: Pick<PruneCommandOptions, 'goal' | 'align'>): boolean {
  if (goal === undefined || goal.kind === 'params') return false;
  return goal.kind !== 'flops' || align === 'auto';
}

/** As of porting: more rounds than wide layers have channels. */
export const MAX_ITERATIONS = 1000;

/** Enough to draw every group of any network more than once. */
export const MAX_VERIFIED_GROUPS = 10_000;

/** @throws InvalidArgumentError for other machines than this, with how to prune for them */
function checkTarget(target: string): string {
  if (target === 'local') return target;
  throw new InvalidArgumentError(
    `The target "${target}" cannot be measured from here: goals of speed time networks on the machine that runs the command. ` +
      'Run bonsai prune there, with --threads as they will serve; or prune to several ratios (bonsai port) and see with ' +
      'bonsai profile --target URL which of them is fast enough there.',
  );
}

const ALL_CANNOT_GO = 'All channels of a layer cannot go.';

const parseRatio = parseNumberWithin(
  (ratio) => ratio >= 0 && ratio < 1,
  'a share of at least 0 and below 1 such as 0.5',
  ALL_CANNOT_GO,
);

const parseMaxRatio = parseNumberWithin(
  (ratio) => ratio > 0 && ratio < 1,
  'a share above 0 and below 1 such as 0.9',
  ALL_CANNOT_GO,
);

interface Gathered {
  readonly criterion: Criterion;
  /** The same criterion, of a network that is pruned already. */
  readonly rescore: (network: Model) => Promise<Criterion>;
  readonly means?: ChannelMeans;
}

/** What pruning needs to know of the data: the criterion, and the means with which to compensate. */
async function gathered(context: Context, model: Model, options: PruneCommandOptions): Promise<Gathered> {
  const { criterion, data, seed, work, threads, compensate } = options;
  const settings = {
    members: options.members,
    reduce: options.reduce,
    normalise: options.normalize,
    seed,
  } as const;
  if (data === undefined || !(isDataCriterion(criterion) || compensate)) {
    const rescore = async (network: Model) =>
      criterion === 'fpgm'
        ? fpgmByEngine(network, { ...settings, threads, signal: context.signal })
        : weightCriterion(criterion, foldConstants(network), settings);
    return { criterion: await rescore(model), rescore };
  }
  const { train, ...dataset } = await loadData(context, { data, seed, work });
  const seeing = (network: Model) => withImageInput(network, dataset, { normalize: options.normalizeInput });
  const gathering = { ...settings, threads, signal: context.signal };
  const rescore = async (network: Model) => {
    if (isDataCriterion(criterion)) context.progress.say(`Gathering ${criterion} on training examples …`);
    return gatherCriterion(criterion, seeing(network), train, gathering);
  };
  const scored = await rescore(model);
  if (!compensate) return { criterion: scored, rescore };
  context.progress.say('Gathering means on training examples …');
  return { criterion: scored, rescore, means: await gatherMeans(seeing(model), train, gathering) };
}

/** By ratio, or to the goal where there is one. */
async function prunedBy(
  context: Context,
  model: Model,
  options: Omit<PruneCommandOptions, 'criterion'> & Gathered,
): Promise<Pruned> {
  const { goal, criterion, means, align, maxRatio, ratio, scope, threads, shape: inputs } = options;
  const kept = wholeGroups(model, options);
  if (goal === undefined) {
    const block = await resolveAlign(align);
    const pruning = { ratio, criterion, scope, maxRatio, align: block, kept, inputs };
    const { schedule, iterations } = options;
    const result =
      schedule === 'one-shot'
        ? prune(model, { ...pruning, means })
        : await pruneIteratively(
            model,
            { ...pruning, schedule, iterations, signal: context.signal },
            {
              criterion: async (network, { iteration }) =>
                iteration === 1 ? criterion : options.rescore(network),
            },
          );
    const blocked = blockedGroups(model, result, { ratio, scope, align: block, kept });
    return { ...result, align: block, blocked };
  }
  const bar = context.progress.task(`Pruning to ${formatGoal(goal)}`, 1);
  const result = await pruneToGoal(model, goal, {
    criterion,
    align,
    maxRatio,
    whole: new Set(kept.keys()),
    inputs,
    threads,
    cache: openStepCache(join(options.work, 'prune')),
    signal: context.signal,
    onProgress: ({ phase, share }) => bar.update(share, GOAL_PHASES[phase]),
  });
  bar.done(reachedText(result));
  if (means === undefined) return result;
  const found = new Map(result.groups.map((group) => [group.key, group.kept]));
  return {
    ...result,
    ...prune(model, { ratio: 0, criterion, means, align: result.align, kept: found, inputs }),
  };
}

/** Groups that alignment alone kept whole: with single channels the ratio would take some of theirs. */
function blockedGroups(
  model: Model,
  { groups }: PruneResult,
  {
    ratio,
    scope,
    align,
    kept,
  }: Required<Pick<PruneOptions, 'ratio' | 'scope' | 'align'>> & Pick<PruneOptions, 'kept'>,
): number {
  if (align === 1) return 0;
  const bases = pruningOf(model)?.channels;
  const isBlocked = ({ key, channels, kept: left }: PruneResult['groups'][number]) =>
    left === channels &&
    !kept?.has(key) &&
    keptChannels(ownValue(bases, key) ?? channels, ratio, 1, 'down') < channels &&
    (scope === 'uniform' || channels <= align);
  return groups.filter(isBlocked).length;
}

const GOAL_PHASES = { segments: 'timing layers', search: 'timing networks' } as const;

async function verified(
  context: Context,
  pruned: PruneResult,
  groups: number | true,
  { seed, shape, threads }: PruneCommandOptions,
): Promise<Verification> {
  const total = groups === true ? DEFAULT_VERIFIED_GROUPS : groups;
  const bar = context.progress.task('Verifying', total + 1);
  const result = await verify(pruned.reference, {
    groups: total,
    delivered: pruned,
    seed,
    shapes: shape,
    intraOpThreads: threads,
    signal: context.signal,
    onProgress: ({ done, maxRelativeError }) =>
      bar.update(done, `error ${maxRelativeError.toExponential(1)}`),
  });
  bar.done(verificationText(result));
  const worst = Math.max(result.maxRelativeError, result.delivered?.maxRelativeError ?? 0);
  if (!(worst <= MASK_TOLERANCE)) {
    throw new BonsaiError(
      'invalid_graph',
      `The pruned network does not compute what the masked one does: relative error ${worst.toExponential(1)}, ` +
        `at most ${MASK_TOLERANCE} is rounding. Nothing was written. Either an operator is pruned wrongly (please report the ` +
        'network), or the network magnifies rounding itself: a quantised one does where a value lies between two steps ' +
        '(prune before quantising), one with very large or very small weights where differences of large numbers are taken.',
    );
  }
  return result;
}

type Pruned = (PruneResult | GoalResult) & {
  readonly align: number;
  /** `blockedGroups`, where a ratio was asked for. */
  readonly blocked?: number;
};

interface Pruning {
  readonly pruned: Pruned;
  readonly seconds: number;
  readonly verification?: Verification;
}

/** The result for programs. */
export function pruningJson({ pruned, seconds, verification }: Pruning) {
  const { parameters, macs, uncounted, groups, frozen, align } = pruned;
  return {
    parameters,
    macs,
    uncounted,
    align,
    seconds,
    groups: groups.length,
    frozen: frozen.map(({ node, reason }) => ({ node, reason })),
    ...('goal' in pruned && {
      goal: { wanted: formatGoal(pruned.goal), share: pruned.share, measured: pruned.measured },
    }),
    ...(verification !== undefined && {
      verify: {
        groups: verification.groups,
        inputs: verification.inputs,
        maxRelativeError: verification.maxRelativeError,
        isSensitive: verification.isSensitive,
        skipped: verification.skipped,
        delivered: verification.delivered,
      },
    }),
  };
}

/** The result for people: what each group lost, the totals, where the file is. */
export function pruningText({ pruned, seconds, verification }: Pruning, file: string): string {
  const { parameters, macs, uncounted, groups, frozen, align, blocked = 0 } = pruned;
  const stays = new Set(frozen.map(({ node }) => node)).size;
  const table = alignedTable([
    ['group (made by)', 'channels', 'kept'],
    ...groups.map(({ producers, channels, kept }) => [groupName(producers), String(channels), String(kept)]),
  ]);
  return [
    table,
    `parameters  ${change(parameters)}`,
    `MACs        ${macs === undefined ? `unknown: ${uncounted}` : change(macs)}`,
    ...(stays > 0
      ? [`frozen      ${stays} layer${stays === 1 ? '' : 's'} whose channels stay; bonsai inspect tells why`]
      : []),
    ...(blocked > 0
      ? [
          `kept whole  ${blocked} of ${groups.length} groups: the nearest multiple of ${align} channels (--align) is all that they have; ` +
            '--align 1 would take the share from them as well, for a network that may run slower',
        ]
      : []),
    ...('goal' in pruned ? [`goal        ${formatGoal(pruned.goal)}: ${reachedText(pruned)}`] : []),
    ...(verification === undefined ? [] : [`verified    ${verificationText(verification)}`]),
    `Pruned in ${seconds.toFixed(2)} s; written to ${file}.`,
  ].join('\n');
}

function groupName([first, ...others]: readonly string[]): string {
  return others.length === 0 ? first! : `${first} and ${others.length} more`;
}

function change({ before, after }: { readonly before: number; readonly after: number }): string {
  return `${compactCount(before)} → ${compactCount(after)} (${((100 * after) / Math.max(1, before)).toFixed(1)} %)`;
}

/** What a goal came to. */
function reachedText({ goal, share, acrossShare, align, measured }: GoalResult): string {
  const left =
    share === undefined
      ? ''
      : `${share.toFixed(3)} is left${coarsenessText(goal, share, acrossShare, align)}`;
  if (measured === undefined) return left || 'reached';
  const { latencyMs, throughputPerSecond, before } = measured;
  return (
    `${left && `${left}: `}${latencyMs.toPrecision(3)} ms, ${throughputPerSecond.toPrecision(3)}/s ` +
    `(before: ${before.latencyMs.toPrecision(3)} ms, ${before.throughputPerSecond.toPrecision(3)}/s)`
  );
}

/** Why more or less is left than was asked for, where it is. */
function coarsenessText(goal: Goal, share: number, acrossShare: number | undefined, align: number): string {
  if (!('share' in goal) || distanceOf(share, goal.share) <= Math.log(1 + NOTABLE_DEVIATION)) return '';
  const widths = align === 1 ? '' : ` in multiples of ${align} channels`;
  const across =
    acrossShare === undefined
      ? ''
      : `, ${acrossShare > share ? 'above' : 'below'} it ${acrossShare.toFixed(3)}`;
  return ` (asked: ${goal.share}; the nearest that the search found widths for${widths}${across}${align === 1 ? '' : '; --align 1 may come nearer'})`;
}

/** Of the share asked for. Among networks of nearly as much, the fastest is chosen (`hurryDefaults.excess`). */
export const NOTABLE_DEVIATION = 0.015;

function verificationText(verification: Verification): string {
  const { groups, inputs, maxRelativeError, skipped, isSensitive, delivered } = verification;
  if (groups === 0) {
    return `nothing: 0 groups can be compared, means are taken over the channels of all ${skipped} (normalisation)`;
  }
  const without =
    skipped > 0 ? `; ${skipped} group${skipped === 1 ? '' : 's'} with normalised axes left out` : '';
  const written =
    delivered === undefined
      ? '; the network written cannot be compared'
      : `; of the network written ${delivered.maxRelativeError.toExponential(1)}`;
  const doubt = isSensitive
    ? ''
    : 'nothing: no removal of channels changes the outputs (are weights zero, or a Softmax saturated?); ';
  return `${doubt}${groups} random groups × ${inputs} inputs, largest relative error ${maxRelativeError.toExponential(1)}${written}${without}`;
}
