import { Command } from 'commander';
import { InvalidArgumentError } from '../base/errors.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import { listTasks } from '../repository/store.ts';
import { interruptible, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { bucketPatience, openBucket } from './open-repository.ts';
import { jsonOption } from './options.ts';
import { checkWritableFolder } from './writable.ts';

interface TransferOptions {
  readonly task?: readonly string[];
  readonly tritonLayout?: boolean;
  readonly removeUnused?: boolean;
  readonly all?: boolean;
  readonly json?: boolean;
}

const URL_HELP =
  's3://BUCKET/PREFIX, with ?endpoint=URL&region=NAME&path-style=true&profile=NAME as far as the environment does not say it';

/** `bonsai repo push`. */
export function repoPushCommand(): Command {
  return withTask(new Command('push'))
    .description('publish tasks of a folder in a bucket of an S3-compatible store, each as one change')
    .argument('<folder>', 'a model repository')
    .argument('<url>', URL_HELP)
    .option(
      '--triton-layout',
      'also put copies where Triton looks for them (TASK/VERSION/model.onnx, config.pbtxt)',
    )
    .option(
      '--all',
      'also send networks that are there already, such as those that repo verify finds damaged',
    )
    .option(
      '--remove-unused',
      'remove networks that no family names any more, and what workers of a porting left for each other, once that is a day old',
    )
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai repo push models s3://edge-models/fleet
  $ bonsai repo push models 's3://models/zoo?endpoint=http://127.0.0.1:9000' --task mnist

Networks go first, each under its digest, then the description of the task: a reader sees the family of before or the
new one. If somebody else publishes the same task meanwhile, one of both is told and changes nothing. What an
interrupted push has sent is not sent again. Profiles of the same networks that others measured into the bucket stay.
Credentials: AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, a profile, or what the machine has.
${EXIT_CODE_HELP}`,
    )
    .action(async (folder: string, url: string, options: TransferOptions) => {
      const context = processContext(options);
      const tasks = namedOf(await listTasks(folder), options, folder);
      const store = await openBucket(bucketUrl(url));
      const { pushTask } = await import('../repository/s3/push-task.ts');
      try {
        const pushed = await interruptible(context.signal, 'Push again to go on from there.', async () => {
          const results = [];
          for (const task of tasks)
            results.push(
              await pushTask(store, folder, task, {
                hasTritonLayout: options.tritonLayout,
                removesUnused: options.removeUnused,
                sendsAll: options.all,
                keepsProfiles: bucketPatience(context),
                nowMs: context.clock.epochMs(),
                signal: context.signal,
                onStep: (text) => context.progress.say(text),
              }),
            );
          return results;
        });
        context.result(
          pushed,
          pushed
            .map(
              ({ task, outcome, uploadedNetworks, uploadedBytes, removedNetworks, removedSteps }) =>
                `${task}: ${outcome}, ${uploadedNetworks} networks sent (${megabytes(uploadedBytes)})` +
                `${removedNetworks > 0 ? `, ${removedNetworks} removed` : ''}${removedSteps > 0 ? `, ${removedSteps} files of finished steps removed` : ''}`,
            )
            .join('\n'),
        );
      } finally {
        store.close();
      }
    });
}

/** `bonsai repo pull`. */
export function repoPullCommand(): Command {
  return withTask(new Command('pull'))
    .description('write tasks of a bucket into a folder, each as one change')
    .argument('<url>', URL_HELP)
    .argument('<folder>', 'a model repository; made if it is not there')
    .addOption(jsonOption())
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai repo pull s3://edge-models/fleet models
  $ bonsai repo pull 's3://models/zoo?endpoint=http://127.0.0.1:9000' models --task mnist

Every network is compared with its digest. What is there already is not fetched, and an interrupted pull goes on to the
byte where it was.
${EXIT_CODE_HELP}`,
    )
    .action(async (url: string, folder: string, options: TransferOptions) => {
      const context = processContext(options);
      const store = await openBucket(bucketUrl(url));
      const { listRemoteTasks, pullTask } = await import('../repository/s3/pull-task.ts');
      try {
        await checkWritableFolder(folder);
        const pulled = await interruptible(context.signal, 'Pull again to go on from there.', async () => {
          const results = [];
          for (const task of namedOf(await listRemoteTasks(store, context.signal), options, url)) {
            context.progress.say(`${task}: fetching`);
            const { manifest, ...counts } = await pullTask(store, folder, task, { signal: context.signal });
            results.push({ task, versions: manifest.variants.map(({ version }) => version), ...counts });
          }
          return results;
        });
        context.result(
          pulled,
          pulled
            .map(
              ({ task, versions, fetchedNetworks, fetchedBytes }) =>
                `${task}: ${versions.length} versions, ${fetchedNetworks} networks fetched (${megabytes(fetchedBytes)})`,
            )
            .join('\n'),
        );
      } finally {
        store.close();
      }
    });
}

function withTask(command: Command): Command {
  return command.option(
    '--task <name>',
    'only this task; repeatable',
    (name: string, names: readonly string[] = []) => [...names, name],
  );
}

function bucketUrl(url: string): string {
  if (isS3Url(url)) return url;
  throw new InvalidArgumentError(`Expected a bucket such as s3://edge-models/fleet, got "${url}".`);
}

/** @throws InvalidArgumentError for a task that is not there, or where there is none at all */
function namedOf(present: readonly string[], { task }: TransferOptions, where: string): readonly string[] {
  if (present.length === 0) throw new InvalidArgumentError(`There is no task in ${where}.`);
  const absent = task?.find((name) => !present.includes(name));
  if (absent === undefined) return task ?? present;
  throw new InvalidArgumentError(`There is no task "${absent}" in ${where}; it has ${present.join(', ')}.`);
}

function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(1)} MB`;
}
