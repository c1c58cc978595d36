import { Command } from 'commander';
import { BonsaiError, messageOf } from '../base/errors.ts';
import { alignedTable } from '../report/table.ts';
import { ModelNotFoundError } from '../repository/errors.ts';
import { frontierOf } from '../repository/frontier.ts';
import { isS3Url } from '../repository/s3/s3-url.ts';
import { listFolders, listTasks, readTask, type StoredTask, verifyVariant } from '../repository/store.ts';
import { type Profile, profileOf, type TaskManifest } from '../repository/types.ts';
import { type Context, processContext } from './context.ts';
import { EXIT_CODE_HELP } from './exit-codes.ts';
import { descriptionsOf, openBucket } from './open-repository.ts';
import { jsonOption } from './options.ts';
import { repoRemoveCommand } from './repo-remove.ts';
import { repoScoreCommand } from './repo-score.ts';
import { repoPullCommand, repoPushCommand } from './repo-transfer.ts';

export function repoCommand(): Command {
  const repo = new Command('repo')
    .description('Look at a model repository, check and change it, push it to a bucket or pull it from one.')
    .addHelpText(
      'after',
      `
Examples:
  $ bonsai repo list models
  $ bonsai repo show models mnist
  $ bonsai repo verify models
  $ bonsai repo push models s3://edge-models/fleet
  $ bonsai repo show s3://edge-models/fleet mnist
  $ bonsai repo score models mnist --data mnist
  $ bonsai repo remove models mnist --dominated
${EXIT_CODE_HELP}`,
    );
  repo
    .command('list')
    .description('the tasks of a repository')
    .argument('<repository>')
    .addOption(jsonOption())
    .action(async (root: string, options: { json?: boolean }) => {
      const context = processContext(options);
      const tasks = await tasksOf(root, context);
      context.result(
        tasks.map(({ task, versions, problems }) => ({
          task,
          versions: versions.map(({ version }) => version),
          problems: problems.map(({ version, error }) => ({ version, error: error.message })),
        })),
        tasks.length === 0
          ? `There is no task in ${root}. Make one: bonsai port MODEL.onnx --data … --out ${root}`
          : tasks
              .map(
                ({ task, versions, problems }) =>
                  `${task}: ${versions.length} versions${problems.length ? `, ${problems.length} damaged` : ''}`,
              )
              .join('\n'),
      );
    });
  repo
    .command('show')
    .description("a task's family: accuracy, cost and the frontier")
    .argument('<repository>')
    .argument('<task>')
    .addOption(jsonOption())
    .action(async (root: string, task: string, options: { json?: boolean }) => {
      const context = processContext(options);
      const stored = await readTask(await descriptionsOf(root, context), task);
      const { manifest } = stored;
      if (manifest === undefined) {
        context.result(
          stored,
          `${task} was not made by Bonsai: versions ${stored.versions.map(({ version }) => version).join(', ')}, accuracy unknown.`,
        );
        return;
      }
      context.result(manifest, familyTable(manifest));
    });
  repo
    .command('verify')
    .description('read every manifest and every network and compare them with their digests')
    .argument('<repository>')
    .addOption(jsonOption())
    .action(async (root: string, options: { json?: boolean }) => {
      const context = processContext(options);
      const rows = isS3Url(root) ? await verifyBucket(root, context) : await verifyRepository(root);
      context.result(
        rows,
        rows
          .map(({ task, version, problem, note }) => {
            const what = version === undefined ? task : `${task}/${version}`;
            return `${what}: ${problem ?? note ?? 'ok'}`;
          })
          .join('\n') || 'nothing to verify: the repository is empty',
      );
      const broken = rows.filter(({ ok }) => !ok).length;
      if (broken > 0)
        throw new BonsaiError(
          'corrupt_repository',
          `${broken} of ${rows.length} entries are damaged; the lines above say which.`,
        );
    });
  repo.addCommand(repoScoreCommand());
  repo.addCommand(repoRemoveCommand());
  repo.addCommand(repoPushCommand());
  repo.addCommand(repoPullCommand());
  return repo;
}

/** Of a bucket the networks are not looked at, which `verify` does: there is nothing wrong with them as far as one knows. */
async function tasksOf(
  root: string,
  context: Context,
): Promise<
  {
    readonly task: string;
    readonly versions: readonly { version: number }[];
    readonly problems: StoredTask['problems'];
  }[]
> {
  const folder = await descriptionsOf(root, context);
  const tasks = await Promise.all((await listTasks(folder)).map((task) => readTask(folder, task)));
  if (!isS3Url(root)) return tasks;
  return tasks.map(({ task, manifest }) => ({ task, versions: manifest?.variants ?? [], problems: [] }));
}

async function verifyBucket(url: string, { signal }: Context): Promise<VerifiedEntry[]> {
  const store = await openBucket(url);
  try {
    const { listRemoteTasks } = await import('../repository/s3/pull-task.ts');
    const { verifyRemoteTask } = await import('../repository/s3/verify-remote.ts');
    const rows: VerifiedEntry[] = [];
    for (const task of await listRemoteTasks(store, signal))
      rows.push(...(await verifyRemoteTask(store, task, signal)));
    return rows;
  } finally {
    store.close();
  }
}

/** What verifying found of a folder, of its manifest, or of one version. */
export interface VerifiedEntry {
  /** The folder, which is the task's name if it is one. */
  readonly task: string;
  /** Absent for what concerns the whole folder. */
  readonly version?: number;
  /** False where something is damaged. */
  readonly ok: boolean;
  readonly problem?: string;
  /** What could not be checked, and why. */
  readonly note?: string;
}

/** Reads every manifest and every network and compares them with their digests. */
export async function verifyRepository(root: string): Promise<VerifiedEntry[]> {
  const rows: VerifiedEntry[] = [];
  for (const task of await listFolders(root)) {
    let stored: StoredTask | undefined;
    try {
      stored = await readTask(root, task);
    } catch (thrown) {
      if (!(thrown instanceof ModelNotFoundError)) {
        rows.push({ task, ok: false, problem: messageOf(thrown) });
        continue;
      }
    }
    if (stored?.manifest === undefined) {
      rows.push({ task, ok: true, note: 'not a Bonsai task (no bonsai.json); not checked' });
      continue;
    }
    if (stored.hasManifestDigest === false) {
      rows.push({
        task,
        ok: true,
        note: 'bonsai.json has no digest of itself (written by an older Bonsai): changes to it go unnoticed; "bonsai profile" or "bonsai port" add one',
      });
    }
    for (const variant of stored.manifest.variants) {
      const { version } = variant;
      const known = stored.problems.find((candidate) => candidate.version === version)?.error.message;
      const problem = known ?? (await verifyVariant(root, task, variant).then(() => undefined, messageOf));
      rows.push({ task, version, ok: problem === undefined, ...(problem !== undefined && { problem }) });
    }
  }
  return rows;
}

/** A family as a table: one line per version, the throughput frontier marked. */
export function familyTable(manifest: TaskManifest): string {
  const frontier = new Set(frontierOf(manifest.variants, 'inverseThroughput').map(({ version }) => version));
  return alignedTable([
    ['version', 'accuracy %', 'MMACs', 'parameters', 'latency ms', 'throughput /s', 'spread', 'frontier'],
    ...manifest.variants.map((variant) => {
      const profile = profileOf(variant);
      return [
        String(variant.version),
        (100 * variant.accuracy.test).toFixed(2),
        (variant.macs / 1e6).toFixed(1),
        String(variant.parameters),
        profile?.latencyMs.median.toFixed(2) ?? '-',
        profile?.throughputRps.median.toFixed(1) ?? '-',
        profile === undefined ? '-' : spreadText(profile),
        frontier.has(variant.version) ? 'yes' : '',
      ];
    }),
  ]).trimEnd();
}

/** Largest by smallest repetition of the throughput, and whether it is beyond what can be trusted. */
function spreadText({ throughputRps, noisy }: Profile): string {
  return `${(throughputRps.max / throughputRps.min).toFixed(2)}${noisy ? ' noisy' : ''}`;
}
