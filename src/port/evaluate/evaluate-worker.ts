import { parentPort, workerData } from 'node:worker_threads';
import { BonsaiError } from '../../base/errors.ts';
import { Session } from '../../engine/session.ts';
import { checkImageShape } from '../data/examples.ts';
import { serveJob } from '../worker-job.ts';
import { classifySplit, type Evaluation } from './classify.ts';
import { type EvaluationInput, imageShapeOf } from './evaluate.ts';

// The worker thread of `evaluate`.
await serveJob<EvaluationInput, never, Evaluation>(
  parentPort,
  workerData,
  async ({ input, isStopRequested }) => {
    const { split } = input;
    const session = await Session.create(input.model, { intraOpThreads: input.threads });
    // Many exporters write a network for one image at a time only.
    const fixed = session.inputs[0]?.type?.shape?.[0];
    const batch = typeof fixed === 'number' ? fixed : input.batch;
    const shape = imageShapeOf(session.inputs[0]?.type?.shape);
    checkImageShape(split, shape);
    const beforeBatch = () => {
      if (isStopRequested()) throw new BonsaiError('aborted', 'Stopped on request.');
    };
    return classifySplit(session, { shape }, split, { batch, beforeBatch });
  },
);
