import { systemCodeOf } from './errors.ts';

/** Whether a process of this machine runs, as far as one sees from here: another PID namespace hides its own. */
export function isAlive(pid: number): boolean {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    // It is there, but somebody else's.
    return systemCodeOf(error) === 'EPERM';
  }
}
