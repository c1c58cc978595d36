import { execFile } from 'node:child_process';
import { promisify } from 'node:util';
import { expect, it } from 'vitest';
import { BonsaiError } from '../base/errors.ts';
import { interruptible } from './context.ts';

it('tells a stop as a stop, whatever the work happened to be doing, and how to go on', async () => {
  const controller = new AbortController();
  const work = async () => {
    controller.abort(new BonsaiError('aborted', 'Stopped by SIGINT.'));
    throw new BonsaiError('server_unreachable', 'POST /v2/repository/models/digits/load was given up.');
  };
  await expect(interruptible(controller.signal, 'Start it again.', work)).rejects.toMatchObject({
    code: 'aborted',
    message: 'Stopped by SIGINT. Start it again.',
    cause: { code: 'server_unreachable' },
  });
});

it('says how to go on where a server did not start, which another time it may', async () => {
  const work = () => Promise.reject(new BonsaiError('load_failed', 'The server did not start.'));
  await expect(interruptible(new AbortController().signal, 'Start it again.', work)).rejects.toMatchObject({
    code: 'load_failed',
    message: 'The server did not start.\nStart it again.',
  });
});

it('leaves results and other failures alone', async () => {
  const { signal } = new AbortController();
  expect(await interruptible(signal, '', async () => 3)).toBe(3);
  await expect(interruptible(signal, '', () => Promise.reject(new Error('broken')))).rejects.toThrow(
    /^broken$/,
  );
});

it('takes a signal that comes twice at once for one: `timeout` sends it to the process and to its group', async () => {
  const code = `import { processContext } from ${JSON.stringify(new URL('../../dist/cli/context.js', import.meta.url).href)};
    const { signal } = processContext({ quiet: true });
    const alive = setInterval(() => {}, 1000);
    signal.addEventListener('abort', () => setImmediate(() => {
      process.kill(process.pid, 'SIGTERM');
      setTimeout(() => { clearInterval(alive); console.log(signal.reason.message); }, 20);
    }));
    process.kill(process.pid, 'SIGTERM');`;
  const { stdout } = await promisify(execFile)(process.execPath, ['--input-type=module', '-e', code]);
  expect(stdout).toBe('Stopped by SIGTERM.\n');
});
