import { totalmem } from 'node:os';
import { DEFAULT_LIMITS } from '../../serve/limits.ts';
import { bytesText, type Finding } from './finding.ts';
import { readIfThere } from './proc.ts';

/** A server of a small family has some 200 MB resident, and twice that while it switches. */
export const LEAST_MEMORY_BYTES = 512 * 2 ** 20;

export interface Memory {
  readonly totalBytes: number;
  /** What the control group allows; undefined: all. */
  readonly limitBytes?: number;
  readonly availableBytes: number;
}

/** As the system and the control groups (v1 and v2) of this process say. */
export function memoryHere(): Memory {
  const totalBytes = totalmem();
  const constrained = process.constrainedMemory();
  // 0 or more than there is: no limit.
  const isLimited = constrained !== undefined && constrained > 0 && constrained < totalBytes;
  return {
    totalBytes,
    ...(isLimited && { limitBytes: constrained }),
    availableBytes: process.availableMemory(),
  };
}

/** Whether there is memory for a server and a second version beside the serving one. */
export function checkMemory({ totalBytes, limitBytes, availableBytes }: Memory = memoryHere()): Finding {
  const name = 'memory';
  const limit =
    limitBytes === undefined ? '' : `, ${bytesText(limitBytes)} by the limit of the control group`;
  const found = `${bytesText(availableBytes)} available of ${bytesText(totalBytes)}${limit}`;
  const least = `a server and the version it loads beside take ${bytesText(LEAST_MEMORY_BYTES)} or more`;
  if ((limitBytes ?? totalBytes) < LEAST_MEMORY_BYTES) {
    const advice = `Give it more: ${least}. Until then serve few tasks, with --residency 1.`;
    return { name, status: 'warn', found, advice };
  }
  if (availableBytes < LEAST_MEMORY_BYTES) {
    const advice = `Others hold the memory, and ${least}. Stop what is not needed, or bound it with --max-memory.`;
    return { name, status: 'warn', found, advice };
  }
  return { name, status: 'ok', found };
}

/** Descriptors for the server's connections, and as many again for files, pipes, and threads. */
export const LEAST_OPEN_FILES = 2 * DEFAULT_LIMITS.maxConnections;

/** The limit of open files; Node.js raises the soft one to the hard one. */
export function checkOpenFiles(limits: string | undefined = readIfThere('/proc/self/limits')): Finding {
  const name = 'open files';
  const [, text] = /^Max open files\s+(\S+)/m.exec(limits ?? '') ?? [];
  if (text === undefined) return { name, status: 'ok', found: 'the system does not tell its limit' };
  const limit = text === 'unlimited' ? Number.POSITIVE_INFINITY : Number(text);
  if (limit >= LEAST_OPEN_FILES) return { name, status: 'ok', found: `at most ${text}` };
  return {
    name,
    status: 'warn',
    found: `at most ${text}; ${DEFAULT_LIMITS.maxConnections} connections need ${LEAST_OPEN_FILES}`,
    advice: 'Raise it (ulimit -n 4096, LimitNOFILE= in a systemd unit), or lower --max-connections.',
  };
}

/** Whether a person watches: it decides how progress is shown. */
export function checkTerminal(isTerminal: boolean = process.stderr.isTTY === true): Finding {
  const found = isTerminal ? 'yes: progress is drawn' : 'no: progress is told in lines';
  return { name: 'terminal', status: 'ok', found };
}
