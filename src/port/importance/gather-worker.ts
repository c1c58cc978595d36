import { parentPort, workerData } from 'node:worker_threads';
import { serveJob } from '../worker-job.ts';
import type { Gathered, GatherJob } from './gather.ts';
import { gatherStatistics } from './statistics.ts';

// The worker thread of `gatherCriterion`.
await serveJob<GatherJob, never, Gathered>(parentPort, workerData, gatherStatistics);
