import { createHash } from 'node:crypto';
import { join } from 'node:path';
import { type Command, Option } from 'commander';
import type { Logger } from 'pino';
import { InvalidArgumentError } from '../base/errors.ts';
import { seededRandom } from '../base/random.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import type { Review } from '../serve/cloud/reviewed-plane.ts';
import type { InferRequest } from '../serve/data-plane.ts';
import { type CacheOptions, cacheFolderOf } from './cache-options.ts';
import type { Context } from './context.ts';
import { checkIdleOptions, isChosen } from './idle-options.ts';
import { openBucket } from './open-repository.ts';
import { parseBytes, parseNumberWithin } from './parse.ts';
import { checkWritableFolder } from './writable.ts';

/** What `bonsai serve` does with answers of low confidence; nothing by default. */
export interface CloudOptions {
  readonly collectSamples?: string;
  readonly collectFraction: number;
  readonly collectBelow: number;
  readonly collectLimit: number;
  readonly secondOpinion?: string;
  readonly secondOpinionTask?: string;
  readonly secondOpinionBelow: number;
}

const parseShare = parseNumberWithin(
  (value) => value > 0 && value <= 1,
  'a share above 0 and up to 1 such as 0.1',
  'To collect or ask nothing, leave the option out.',
);

export function addCloudOptions(command: Command): Command {
  return command
    .addOption(
      new Option(
        '--collect-samples <where>',
        'keep inputs that a classifier is not sure of, for labelling and retraining: in a folder, or shipped to s3://BUCKET/PREFIX',
      ),
    )
    .addOption(
      new Option('--collect-below <p>', 'not sure: the probability of the answer is lower')
        .argParser(parseShare)
        .default(0.6),
    )
    .addOption(
      new Option('--collect-fraction <share>', 'share of these inputs that is kept, drawn at random')
        .argParser(parseShare)
        .default(0.01),
    )
    .addOption(
      new Option('--collect-limit <size>', 'of the samples that lie here; past it the oldest are dropped')
        .argParser(parseBytes)
        .default(parseBytes('1GB'), '1GB'),
    )
    .addOption(
      new Option(
        '--second-opinion <url>',
        'a larger model elsewhere, as http://HOST:8000/v2/models/NAME, that answers what the local one is not sure of, if the deadline allows',
      ),
    )
    .addOption(new Option('--second-opinion-task <name>', 'the task that it answers (default: all)'))
    .addOption(
      new Option('--second-opinion-below <p>', 'not sure: the probability of the answer is lower')
        .argParser(parseShare)
        .default(0.5),
    );
}

/** @param names of the repository's tasks, where they are known. @throws InvalidArgumentError for options that would do nothing */
export function checkCloudOptions(
  command: Command,
  { collectSamples, secondOpinion, secondOpinionTask }: CloudOptions,
  names: readonly string[] | undefined,
): void {
  const dependent = (flag: string, name: string, need: string, isMet: boolean) => ({
    flag,
    isGiven: isChosen(command, name),
    need,
    isMet,
  });
  const collects = collectSamples !== undefined;
  const asks = secondOpinion !== undefined;
  checkIdleOptions([
    dependent('--collect-below', 'collectBelow', '--collect-samples', collects),
    dependent('--collect-fraction', 'collectFraction', '--collect-samples', collects),
    dependent('--collect-limit', 'collectLimit', '--collect-samples', collects),
    dependent('--second-opinion-task', 'secondOpinionTask', '--second-opinion', asks),
    dependent('--second-opinion-below', 'secondOpinionBelow', '--second-opinion', asks),
  ]);
  if (secondOpinionTask !== undefined && names?.includes(secondOpinionTask) === false)
    throw new InvalidArgumentError(
      `--second-opinion-task: there is no task ${secondOpinionTask}; the repository has ${names.join(', ') || 'none'}.`,
    );
}

export interface OpenedCloudSide {
  readonly review: Review;
  metricsText(): string;
  close(): Promise<void>;
}

/**
 * @param limitMsOf within what a request is to be answered
 * @returns undefined where nothing is to be done
 * @throws InvalidArgumentError for addresses that are none
 * @throws BonsaiError `unwritable_path` for a folder that cannot be made
 */
export async function openCloudSide(
  options: CloudOptions & CacheOptions,
  { clock }: Context,
  logger: Logger,
  limitMsOf: (request: InferRequest) => number | undefined,
): Promise<OpenedCloudSide | undefined> {
  const { collectSamples: where, secondOpinion: url } = options;
  if (where === undefined && url === undefined) return undefined;
  const { reviewOf, cloudMetricsText, closeCloudSide } = await import('../serve/cloud/cloud-side.ts');
  const remote =
    url === undefined ? undefined : (await import('../serve/cloud/remote-infer.ts')).remoteModel(url, 8);
  const { SecondOpinion } = await import('../serve/cloud/second-opinion.ts');
  const opinion =
    remote &&
    new SecondOpinion({
      remote,
      task: options.secondOpinionTask,
      below: options.secondOpinionBelow,
      clock,
      logger,
      limitMsOf,
    });
  const { spool, shipper, store } = where === undefined ? {} : await openSpool(where, options, clock, logger);
  const side = { spool, shipper, opinion };
  return {
    review: reviewOf(side),
    metricsText: () => cloudMetricsText(side),
    async close() {
      await closeCloudSide(side);
      await remote?.close();
      store?.close();
    },
  };
}

async function openSpool(
  where: string,
  options: CloudOptions & CacheOptions,
  clock: Context['clock'],
  logger: Logger,
) {
  const { SampleSpool } = await import('../serve/cloud/sample-spool.ts');
  const store = isS3Url(where) ? await openBucket(where) : undefined;
  const name = createHash('sha256').update(where).digest('hex').slice(0, 16);
  const folder = store === undefined ? where : join(cacheFolderOf(options), 'samples', name);
  await checkWritableFolder(folder);
  const spool = await SampleSpool.open({
    folder,
    limitBytes: options.collectLimit,
    below: options.collectBelow,
    fraction: options.collectFraction,
    clock,
    // Which inputs are drawn is to differ from server to server.
    random: seededRandom(process.pid).fork(String(clock.epochMs())),
    logger,
  });
  if (store === undefined) return { spool };
  const { SampleShipper } = await import('../serve/cloud/sample-shipper.ts');
  return { spool, store, shipper: new SampleShipper({ spool, store, logger }) };
}
