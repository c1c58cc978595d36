import { messageOf } from '../../base/errors.ts';
import type { TargetDescription } from '../../engine/target.ts';
import { listTasks, readManifest } from '../../repository/store.ts';
import type { TaskManifest, Variant } from '../../repository/types.ts';
import { probeFolder } from '../writable.ts';
import type { Finding } from './finding.ts';

/** Damaged entries that are told one by one. */
const MAX_SHOWN = 5;

/**
 * A model repository: whether every manifest can be read and every network is the one that its digest names, whether it
 * can be written, and whether its profiles are of this machine.
 */
export async function checkRepository(root: string): Promise<readonly Finding[]> {
  const name = `repository ${root}`;
  let entries: readonly { task: string; version?: number; ok: boolean; problem?: string }[];
  try {
    const { verifyRepository } = await import('../repo.ts');
    entries = await verifyRepository(root);
  } catch (thrown) {
    const advice =
      'Name the folder that holds the tasks, or make a family: bonsai port NETWORK --out FOLDER.';
    return [{ name, status: 'fail', found: messageOf(thrown), advice }];
  }
  return [contents(name, root, entries), await checkWritable(name, root), ...(await checkProfiles(root))];
}

function contents(
  name: string,
  root: string,
  entries: readonly { task: string; version?: number; ok: boolean; problem?: string }[],
): Finding {
  const broken = entries.filter(({ ok }) => !ok);
  const tasks = new Set(entries.map(({ task }) => task)).size;
  const versions = entries.filter(({ version }) => version !== undefined).length;
  if (broken.length > 0) {
    const shown = broken
      .slice(0, MAX_SHOWN)
      .map(
        ({ task, version, problem }) => `${version === undefined ? task : `${task}/${version}`}: ${problem}`,
      );
    return {
      name,
      status: 'fail',
      found: `${broken.length} of ${entries.length} entries are damaged. ${shown.join(' ')}`,
      advice: `Take them from a backup or write the task again (bonsai port); bonsai repo verify ${root} lists all. The rest can be served.`,
    };
  }
  if (tasks === 0) {
    const advice = 'Make a family: bonsai port NETWORK --data DATA --out FOLDER.';
    return { name, status: 'warn', found: 'there is nothing in it', advice };
  }
  const found = `${versions} versions in ${tasks} ${tasks === 1 ? 'task' : 'tasks'}; all digests are right`;
  return { name, status: 'ok', found };
}

async function checkWritable(name: string, root: string): Promise<Finding> {
  const title = `${name}, writing`;
  try {
    await probeFolder(root, root);
    return { name: title, status: 'ok', found: 'possible' };
  } catch (thrown) {
    const advice = 'That is enough to serve; to port, profile or score into it, make it writable.';
    return { name: title, status: 'warn', found: messageOf(thrown).split('. ')[0]!, advice };
  }
}

async function checkProfiles(root: string): Promise<Finding[]> {
  const findings: Finding[] = [];
  for (const task of await listTasks(root)) {
    const manifest = await readManifest(root, task).catch(() => undefined);
    // Damage has been told already, and a folder of another maker has no profiles.
    if (manifest === undefined) continue;
    findings.push(await checkTaskProfiles(root, manifest));
  }
  return findings;
}

async function checkTaskProfiles(root: string, { task, variants }: TaskManifest): Promise<Finding> {
  const name = `profiles of ${task}`;
  const advice = `Measure it here: bonsai profile ${root} --task ${task}. Until then policies reckon with other figures.`;
  const { describeTarget } = await import('../../engine/target.ts');
  const here = describeTarget({ cpus: 1 });
  const own = variants.filter((variant) => hasProfileOf(variant, here));
  if (own.length === variants.length) {
    return {
      name,
      status: 'ok',
      found: `all ${variants.length} versions were measured on this kind of machine`,
    };
  }
  const models = new Set(
    variants.flatMap(({ profiles }) =>
      Object.values(profiles).map(
        ({ target }) => `${target.cpuModel}, ONNX Runtime ${target.runtimeVersion}`,
      ),
    ),
  );
  const where = models.size === 0 ? 'measured nowhere' : `measured on: ${[...models].join('; ')}`;
  const found = `${own.length} of ${variants.length} versions were measured here (${here.cpuModel}, ONNX Runtime ${here.runtimeVersion}); ${where}`;
  return { name, status: 'warn', found, advice };
}

/** With whatever number of CPUs: those are chosen when a server is started. */
function hasProfileOf({ profiles }: Variant, here: TargetDescription): boolean {
  return Object.values(profiles).some(
    ({ target }) =>
      target.cpuModel === here.cpuModel &&
      target.architecture === here.architecture &&
      target.runtime === here.runtime &&
      target.runtimeVersion === here.runtimeVersion,
  );
}
