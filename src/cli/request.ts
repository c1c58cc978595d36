import { Command, Option } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import { describeTarget } from '../engine/target.ts';
import { JOB_SCHEMA_VERSION, jobId, type PortJob, queueJob } from '../repository/jobs.ts';
import {
  type Choice,
  type Closer,
  type Constraint,
  chooseVariant,
  closerThan,
  formatConstraint,
  formatFigure,
  fulfilment,
  parseConstraints,
} from '../repository/request.ts';
import { readManifest } from '../repository/store.ts';
import type { TaskManifest, Variant } from '../repository/types.ts';
import { processContext } from './context.ts';
import { EXIT, EXIT_CODE_HELP } from './exit-codes.ts';
import { jsonOption } from './options.ts';
import { cpusOption } from './profile.ts';
import { onlyTask } from './profile-repository.ts';

interface RequestOptions {
  readonly task?: string;
  readonly max: Constraint[];
  readonly target?: string;
  readonly cpus: number[];
  readonly queue: boolean;
  readonly json?: boolean;
}

export function requestCommand(): Command {
  return new Command('request')
    .description(
      "Ask a task's family for a variant within bounds: the best that fits now, and a queued porting job for a closer one.",
    )
    .argument('<repository>', 'the model repository')
    .option('--task <name>', 'only this task (default: the only one)')
    .addOption(
      new Option(
        '--max <bounds>',
        'throughput>=40/s, latency<=20ms, flops<=5M, params<=0.3M, accuracy>=0.9; several with commas',
      )
        .argParser(parseConstraints)
        .makeOptionMandatory(),
    )
    .option('--target <fingerprint>', "whose profiles count (default: this machine's)")
    .addOption(cpusOption())
    .option('--no-queue', 'queue no porting job')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai request models --task cifar10 --max 'throughput>=40/s'
  $ bonsai request models --max 'latency<=5ms,accuracy>=0.9' --no-queue

Throughput is the server's, latency that of the engine alone, as profiled; flops are multiply-accumulates. Of the variants within the bounds
the most accurate is chosen; where only accuracy is bounded, the cheapest. Jobs lie in REPOSITORY/TASK/jobs; bonsai port --jobs does them.
${EXIT_CODE_HELP} ${EXIT.noneFits}: no variant fits; the nearest is printed.`,
    )
    .action(async (repository: string, options: RequestOptions) => {
      const context = processContext(options);
      const manifest = await readManifest(repository, options.task ?? (await onlyTask(repository)));
      const target = targetOf(manifest, options);
      const { max: constraints } = options;
      const choice = chooseVariant(manifest.variants, constraints, target);
      if (choice === undefined)
        throw new InvalidArgumentError(`The task "${manifest.task}" has no variants.`);
      const closer = closerThan(choice, manifest.variants, constraints, target);
      const job =
        options.queue && closer.kind === 'goal'
          ? await queueJob(
              repository,
              jobOf(manifest, constraints, closer, target, new Date(context.clock.epochMs())),
            )
          : undefined;
      const { variant, fits } = choice;
      context.result(
        { task: manifest.task, target, fits, variant, closer: closerJson(closer), ...(job && { job }) },
        textOf(choice, constraints, target, closer, job),
      );
      if (!fits) process.exitCode = EXIT.noneFits;
    });
}

/** @throws InvalidArgumentError where no variant was profiled on the target */
function targetOf({ task, variants }: TaskManifest, options: RequestOptions): string {
  const known = new Map(
    variants.flatMap(({ profiles }) =>
      Object.values(profiles).map(({ target }) => [target.fingerprint, target]),
    ),
  );
  const wanted = options.target ?? describeTarget({ cpus: options.cpus.length }).fingerprint;
  // Figures that are counted need no profile; a target that was named was meant all the same.
  const isMeasured = options.max.some(({ metric }) => metric === 'throughput' || metric === 'latency');
  if (known.has(wanted) || (!isMeasured && options.target === undefined)) return wanted;
  const targets = [...known.values()].map(
    ({ fingerprint, cpuModel, cpus }) => `${fingerprint} (${cpuModel}, ${cpus} CPU)`,
  );
  throw new InvalidArgumentError(
    `No variant of "${task}" was profiled on ${options.target === undefined ? 'this machine' : wanted}` +
      `${options.target === undefined ? ` with ${options.cpus.length} CPU` : ''}. Profile it (bonsai profile), or name one of ` +
      `${targets.join('; ') || 'no target: there are no profiles'} with --target.`,
  );
}

function jobOf(
  { task }: TaskManifest,
  constraints: readonly Constraint[],
  closer: Closer & { readonly kind: 'goal' },
  target: string,
  now: Date,
): PortJob {
  const { goal, parent, below } = closer;
  const wish = { task, goal, parent: parent.digest, target };
  return {
    schemaVersion: JOB_SCHEMA_VERSION,
    id: jobId(wish),
    ...wish,
    request: constraints.map(formatConstraint).join(','),
    ...(below !== undefined && { below: below.digest }),
    createdAt: now.toISOString(),
    state: 'queued',
  };
}

function closerJson(closer: Closer) {
  if (closer.kind === 'none') return closer;
  const { goal, parent, below } = closer;
  return { kind: 'goal', goal, parent: parent.version, ...(below && { below: below.version }) };
}

function textOf(
  { variant, fits }: Choice,
  constraints: readonly Constraint[],
  target: string,
  closer: Closer,
  job: PortJob | undefined,
): string {
  const asked = constraints.map(formatConstraint).join(', ');
  const figures = figuresOf(variant, constraints, target);
  const wantsAccuracyOnly = constraints.every(({ metric }) => metric === 'accuracy');
  const why = wantsAccuracyOnly ? 'the cheapest' : 'the most accurate';
  const missed = constraints
    .filter((constraint) => fulfilment(variant, constraint, target) < 1)
    .map(formatConstraint);
  const answer = fits
    ? `Version ${variant.version}: ${why} that meets ${asked} (${figures}).`
    : `No variant meets ${asked}. The nearest is version ${variant.version} (${figures}), which misses ${missed.join(', ')}.`;
  return `${answer}\n${nextText(closer, job)}`;
}

function figuresOf(variant: Variant, constraints: readonly Constraint[], target: string): string {
  const metrics = new Set([...constraints.map(({ metric }) => metric), 'accuracy' as const]);
  return [...metrics].map((metric) => formatFigure(variant, metric, target)).join(', ');
}

function nextText(closer: Closer, job: PortJob | undefined): string {
  if (closer.kind === 'none') return `No closer one is to be made: ${closer.reason}.`;
  const { goal, parent, below } = closer;
  const where = `version ${parent.version} pruned to ${goal}${below === undefined ? '' : `, between it and version ${below.version}`}`;
  if (job === undefined) return `A closer one could be made: ${where}.`;
  switch (job.state) {
    case 'queued':
      return `Queued as job ${job.id}: ${where}. Do it: bonsai port --jobs.`;
    case 'done':
      return `A closer one was tried before (job ${job.id}): ${job.outcome ?? job.state}`;
    case 'failed':
      return (
        `A closer one was tried before (job ${job.id}): ${job.outcome ?? job.state}\n` +
        `To have it tried with other options of bonsai port --jobs, remove ${job.task}/jobs/${job.id}.json from the repository and ask again.`
      );
    default:
      return job.state satisfies never;
  }
}
