import { readdir, readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { z } from 'zod';
import { BonsaiError, messageOf, systemCodeOf } from '../base/errors.ts';
import { writeAtomically } from './atomic.ts';
import { canonicalJson, digestOf } from './digest.ts';
import { CorruptRepositoryError } from './errors.ts';
import { checkTaskName } from './names.ts';

/** A variant that somebody asked for and that is still to be made (`<task>/jobs/<id>.json`). */
export interface PortJob {
  readonly schemaVersion: number;
  /** A digest of what is wanted, so that the same wish is one job. */
  readonly id: string;
  readonly task: string;
  /** The request in words, such as `throughput>=40/s`. */
  readonly request: string;
  /** What to prune to, as `bonsai prune --goal` takes it. */
  readonly goal: string;
  /** Digest of the variant to prune. */
  readonly parent: string;
  /** Digest of the variant that answers for now, where one does. */
  readonly below?: string;
  /** Fingerprint of the target that the request is about. */
  readonly target: string;
  /** ISO 8601. */
  readonly createdAt: string;
  readonly state: 'queued' | 'done' | 'failed';
  /** What became of it, in words. */
  readonly outcome?: string;
}

export const JOB_SCHEMA_VERSION = 1;

/** Jobs that wait for one task at most; who asks for more hears so. */
export const MAX_QUEUED_JOBS = 64;
/** Settled jobs that are remembered, so that a wish that cannot be met is not tried for ever. */
export const MAX_SETTLED_JOBS = 256;

/** The name of a job: the same for the same goal, parent and target. */
export function jobId(job: Pick<PortJob, 'task' | 'goal' | 'parent' | 'target'>): string {
  const { task, goal, parent, target } = job;
  return digestOf(new TextEncoder().encode(canonicalJson({ task, goal, parent, target }))).slice(
    0,
    ID_DIGITS,
  );
}

const ID_DIGITS = 16;

/**
 * Queues a job, unless it is known. One that failed is queued again if it was for speed, which another day may measure
 * better.
 * @returns the job as it lies there: the given one, or the one of before, whatever became of it
 * @throws BonsaiError `queue_full`; `unwritable_path`
 */
export async function queueJob(root: string, job: PortJob): Promise<PortJob> {
  const { jobs } = await readJobs(root, job.task);
  const known = jobs.find(({ id }) => id === job.id);
  const isRetried = known?.state === 'failed' && /^(throughput|latency)=/.test(known.goal);
  if (known !== undefined && !isRetried) return known;
  const queued = jobs.filter(({ state }) => state === 'queued').length;
  if (queued >= MAX_QUEUED_JOBS) {
    throw new BonsaiError(
      'queue_full',
      `${queued} porting jobs wait for "${job.task}" already. Work on them first (bonsai port --jobs), or ask with --no-queue.`,
    );
  }
  await writeAtomically(pathOf(root, job.task, job.id), textOf(job));
  return job;
}

/** Notes what became of a job, and forgets the oldest settled ones beyond `MAX_SETTLED_JOBS`. */
export async function settleJob(
  root: string,
  job: PortJob,
  state: 'done' | 'failed',
  outcome: string,
): Promise<void> {
  await writeAtomically(pathOf(root, job.task, job.id), textOf({ ...job, state, outcome }));
  const { jobs } = await readJobs(root, job.task);
  const settled = jobs.filter((each) => each.state !== 'queued' && each.id !== job.id);
  for (const { id } of settled.slice(0, Math.max(0, settled.length + 1 - MAX_SETTLED_JOBS)))
    await rm(pathOf(root, job.task, id), { force: true });
}

/** All jobs of a task, the oldest first, and those that cannot be read. */
export async function readJobs(
  root: string,
  task: string,
): Promise<{ readonly jobs: PortJob[]; readonly problems: CorruptRepositoryError[] }> {
  const folder = join(root, checkTaskName(task), JOBS_FOLDER);
  let names: string[];
  try {
    names = await readdir(folder);
  } catch (cause) {
    if (systemCodeOf(cause) === 'ENOENT') return { jobs: [], problems: [] };
    throw new CorruptRepositoryError({
      file: folder,
      problem: `cannot be read (${messageOf(cause)}).`,
      cause,
    });
  }
  const jobs: PortJob[] = [];
  const problems: CorruptRepositoryError[] = [];
  for (const name of names.filter((each) => JOB_FILE.test(each)).sort()) {
    const file = join(folder, name);
    try {
      const job = jobSchema.parse(JSON.parse(await readFile(file, 'utf8')));
      if (job.id !== name.slice(0, ID_DIGITS) || job.task !== task) throw new Error('it is another job');
      jobs.push(job);
    } catch (cause) {
      problems.push(
        new CorruptRepositoryError({
          file,
          problem: `is no porting job (${messageOf(cause)}). Remove it.`,
          cause,
        }),
      );
    }
  }
  return {
    jobs: jobs.sort((a, b) => a.createdAt.localeCompare(b.createdAt) || a.id.localeCompare(b.id)),
    problems,
  };
}

/** Beside the versions; Triton ignores folders that are no numbers. */
const JOBS_FOLDER = 'jobs';
const JOB_FILE = /^[0-9a-f]{16}\.json$/;

const jobSchema = z.object({
  schemaVersion: z.literal(JOB_SCHEMA_VERSION),
  id: z.string(),
  task: z.string(),
  request: z.string(),
  goal: z.string(),
  parent: z.string(),
  below: z.string().optional(),
  target: z.string(),
  createdAt: z.string(),
  state: z.enum(['queued', 'done', 'failed']),
  outcome: z.string().optional(),
});

function pathOf(root: string, task: string, id: string): string {
  return join(root, checkTaskName(task), JOBS_FOLDER, `${id}.json`);
}

function textOf(job: PortJob): string {
  return `${JSON.stringify(job, null, 2)}\n`;
}
