import { parentPort, workerData } from 'node:worker_threads';
import { serveJob } from '../worker-job.ts';
import { runTraining, type TrainingJob, type TrainingOutcome, type WorkerEvent } from './loop.ts';

// The worker thread of `trainNetwork`.
await serveJob<TrainingJob, WorkerEvent, TrainingOutcome>(parentPort, workerData, runTraining);
