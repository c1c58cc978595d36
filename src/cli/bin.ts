#!/usr/bin/env node
import { spawn } from 'node:child_process';
import { constants } from 'node:os';
import { fileURLToPath } from 'node:url';
import { MALLOC_ENVIRONMENT } from './malloc-environment.ts';

/** How often it is looked whether npx is still there. */
const NPX_CHECK_MS = 500;

/*
 * What `bonsai` starts. All commands run in this process, but a server on Linux: it runs in a child process whose
 * environment holds the settings of its allocator. Set them oneself, and it runs here as well.
 */
const isPrepared = Object.keys(MALLOC_ENVIRONMENT).some((name) => process.env[name] !== undefined);
if (process.platform !== 'linux' || !process.argv.includes('serve') || isPrepared) await import('./main.ts');
else await runInChild();

/** Ends as the child does; signals go to it, and it ends if this process is killed (its channel closes). */
async function runInChild(): Promise<void> {
  const main = fileURLToPath(new URL('./main.js', import.meta.url));
  const child = spawn(process.execPath, [...process.execArgv, main, ...process.argv.slice(2)], {
    stdio: ['inherit', 'inherit', 'inherit', 'ipc'],
    env: { ...process.env, ...MALLOC_ENVIRONMENT },
  });
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) process.on(signal, () => child.kill(signal));
  endWithNpx(() => child.kill('SIGTERM'));
  process.exitCode = await new Promise<number>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', (code, signal) => resolve(code ?? 128 + constants.signals[signal ?? 'SIGKILL']));
  });
}

/** npx ends at a signal without telling whom it started: that it is gone is the signal. */
function endWithNpx(stop: () => void): void {
  if (process.env.npm_command !== 'exec') return;
  const npx = process.ppid;
  const check = setInterval(() => {
    if (process.ppid === npx) return;
    clearInterval(check);
    stop();
  }, NPX_CHECK_MS);
  check.unref();
}
