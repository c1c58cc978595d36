import { idleCpus } from '../../engine/idle-cpus.ts';
import { Session } from '../../engine/session.ts';

/**
 * How long a thread that waits for its part of the next layer keeps its CPU. A step has a thousand short layers, and waking
 * a thread takes longer than many of them.
 */
const SPIN_US = 1000;
/** Of one CPU: what systems do beside. */
const TOLERANCE = 0.25;

/**
 * Loads a training step. Its memory is not planned ahead: that gained no time and cost a third more. Threads keep their
 * CPUs between layers where the machine has nothing else to do with them, and give them up at once where it has; the
 * results are the same, bit by bit. On two AVX2 cores at batch 64 (bench/training.ts) keeping them took a MobileNetV1-0.25
 * from 48 to 37 ms and a ResNet-20 from 156 to 150 ms; beside one busy process it took them from 53 to 60 and from 294 to 323.
 */
export async function openStepSession(model: Uint8Array, threads: number): Promise<Session> {
  const isFree = threads > 1 && (await idleCpus()) >= threads - TOLERANCE;
  return Session.create(model, {
    intraOpThreads: threads,
    memoryPattern: false,
    spinUs: isFree ? SPIN_US : 0,
  });
}
