import { type ChildProcess, execFileSync, spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rm, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { basename, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, test, vi } from 'vitest';
import { MALLOC_ENVIRONMENT } from '../../src/cli/malloc-environment.ts';
import {
  DEFAULT_CONTROL_PORT,
  DEFAULT_GRPC_PORT,
  DEFAULT_HTTP_PORT,
  DEFAULT_METRICS_PORT,
} from '../../src/serve/listen.ts';
import { freePorts } from './free-ports.fixture.ts';

const root = fileURLToPath(new URL('../..', import.meta.url));
const main = join(root, 'dist/cli/main.js');

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-deployment-'));
});
afterAll(() => rm(folder, { recursive: true, force: true }));

async function answers(url: string, path: string): Promise<void> {
  await vi.waitFor(async () => expect((await request(`${url}${path}`)).statusCode).toBe(200), {
    timeout: 60_000,
    interval: 200,
  });
}

/** SIGTERM, and the exit code. */
async function ended(child: ChildProcess): Promise<unknown> {
  const exit = once(child, 'exit');
  child.kill('SIGTERM');
  return (await exit)[0];
}

describe('the container', () => {
  /** One instruction: its name, and what follows; lines that go on are joined, comments left out. */
  const instructions = readFileSync(join(root, 'deploy/container/Containerfile'), 'utf8')
    .replace(/^#.*\n/gm, '')
    .replace(/\\\n\s*/g, '')
    .split('\n')
    .flatMap((line) => {
      const [, name, rest] = /^([A-Z]+) (.*)$/.exec(line) ?? [];
      return name === undefined ? [] : [{ name, rest: rest! }];
    });
  const stages = instructions.reduce<(typeof instructions)[]>((all, instruction) => {
    if (instruction.name === 'FROM') all.push([]);
    all.at(-1)!.push(instruction);
    return all;
  }, []);
  const final = stages.at(-1)!;
  const ofFinal = (name: string) => final.filter((one) => one.name === name).map(({ rest }) => rest);

  test('is built on one major version of Node.js that Bonsai runs on, and does not run as root', () => {
    const bases = instructions.filter(({ name }) => name === 'FROM').map(({ rest }) => rest.split(' ')[0]!);
    const majors = bases.map((base) => Number(/\/node:(\d+)-/.exec(base)?.[1]));
    expect(new Set(majors).size).toBe(1);
    expect(majors[0]).toBeGreaterThanOrEqual(20);
    expect(ofFinal('USER')).toEqual(['node']);
    // Nothing is written into the image once the user has changed.
    const afterUser = final.slice(final.findIndex(({ name }) => name === 'USER'));
    expect(afterUser.some(({ name }) => ['COPY', 'RUN', 'ADD'].includes(name))).toBe(false);
  });

  test('names the ports and the settings of the allocator that the server has', () => {
    expect(ofFinal('EXPOSE')[0]!.split(' ').map(Number)).toEqual([
      DEFAULT_HTTP_PORT,
      DEFAULT_GRPC_PORT,
      DEFAULT_METRICS_PORT,
      DEFAULT_CONTROL_PORT,
    ]);
    const environment = ofFinal('ENV').join(' ');
    for (const [name, value] of Object.entries(MALLOC_ENVIRONMENT))
      expect(environment).toContain(`${name}=${value}`);
  });

  test('copies what is there, and what .dockerignore lets through', () => {
    const ignored = readFileSync(join(root, '.dockerignore'), 'utf8').split('\n');
    for (const stage of stages)
      for (const { name, rest } of stage) {
        if (name !== 'COPY' || rest.startsWith('--from')) continue;
        const sources = rest.split(' ').slice(0, -1);
        expect(sources.filter((source) => !existsSync(join(root, source)))).toEqual([]);
        expect(sources.filter((source) => ignored.includes(source.split('/')[0]!))).toEqual([]);
      }
  });

  test('copies all that the build needs', async () => {
    // The first stage, without its network: packages come from here.
    const build = join(folder, 'build');
    await mkdir(build);
    for (const { name, rest } of stages[0]!) {
      if (name !== 'COPY') continue;
      const words = rest.split(' ');
      const target = join(build, words.at(-1)!);
      for (const source of words.slice(0, -1)) {
        const place = words.at(-1)!.endsWith('/') ? join(target, basename(source)) : target;
        const filter = (path: string) => basename(path) !== 'node_modules';
        await cp(join(root, source), place, { recursive: true, filter });
      }
    }
    await symlink(join(root, 'node_modules'), join(build, 'node_modules'));
    expect(stages[0]!.some(({ name, rest }) => name === 'RUN' && rest === 'npm run build')).toBe(true);
    execFileSync('npm', ['run', 'build'], { cwd: build, stdio: ['ignore', 'ignore', 'inherit'] });
    expect(existsSync(join(build, 'dist/cli/main.js'))).toBe(true);
    expect(existsSync(join(build, 'dist/dashboard/index.html'))).toBe(true);
  }, 600_000);

  test('serves with its entry point, is found healthy, and drains', async () => {
    // The last stage in a folder instead of /opt/bonsai.
    const image = join(folder, 'image');
    await mkdir(image);
    for (const rest of ofFinal('COPY')) {
      const words = rest.split(' ').filter((word) => !word.startsWith('--'));
      for (const source of words.slice(0, -1)) {
        const local = source.replace(/^\/build\//, '');
        if (local === 'node_modules' || local === 'dist')
          await symlink(join(root, local), join(image, local));
        else await cp(join(root, local), join(image, basename(local)));
      }
    }
    const [port, grpc, metrics, control] = await freePorts(4);
    const token = join(folder, 'admin-token');
    await writeFile(token, 'secret\n');
    const settings = ofFinal('ENV').flatMap((rest) =>
      [...rest.matchAll(/(\w+)=(\S+)/g)].map(([, name, value]) => [name!, value!] as const),
    );
    const environment = {
      ...process.env,
      ...Object.fromEntries(settings),
      BONSAI_ADMIN_TOKEN_FILE: token,
      BONSAI_PORT: String(port),
      BONSAI_GRPC_PORT: String(grpc),
      BONSAI_METRICS_PORT: String(metrics),
      BONSAI_CONTROL_PORT: String(control),
    };
    const inImage = (text: string) =>
      (JSON.parse(text) as string[]).map((word) =>
        word.replace('/opt/bonsai', image).replace('/models', join(root, 'zoo/models')),
      );
    const [program, ...args] = [...inImage(ofFinal('ENTRYPOINT')[0]!), ...inImage(ofFinal('CMD')[0]!)];
    const [health, ...healthArgs] = inImage(ofFinal('HEALTHCHECK')[0]!.replace(/^.*CMD /, ''));
    const check = () => spawnSync(health!, healthArgs, { env: environment }).status;
    expect(check(), 'before the start').toBe(1);
    const child = spawn(program!, args, {
      cwd: folder,
      env: environment,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    try {
      await answers(`http://127.0.0.1:${port}`, '/v2/health/ready');
      await answers(`http://127.0.0.1:${control}`, '/');
      expect(check()).toBe(0);
      // Beyond loopback only an administrator changes what is served.
      const { statusCode } = await request(`http://127.0.0.1:${port}/v2/repository/models/mnist/unload`, {
        method: 'POST',
      });
      expect(statusCode).toBe(401);
    } finally {
      expect(await ended(child)).toBe(0);
    }
  });
});

describe('the systemd unit', () => {
  const unit = readFileSync(join(root, 'deploy/systemd/bonsai.service'), 'utf8');
  const settings = Object.fromEntries(
    [...unit.matchAll(/^(\w+)=(.*)$/gm)].map(([, name, value]) => [name!, value!]),
  );
  const hasSystemd = spawnSync('systemd-analyze', ['--version']).error === undefined;
  const why = hasSystemd
    ? ''
    : ' (left out: there is no systemd-analyze here; Debian: apt-get install systemd)';

  test.skipIf(!hasSystemd)(`is accepted by systemd, and well confined${why}`, async () => {
    // What it starts lies elsewhere here.
    const file = join(folder, 'bonsai.service');
    await writeFile(
      file,
      unit.replace(/^ExecStart=.*$/m, `ExecStart=${process.execPath} ${main} serve models`),
    );
    const verified = spawnSync('systemd-analyze', ['verify', '--man=no', file], { encoding: 'utf8' });
    expect(verified.stderr.split('\n').filter((line) => line.includes('bonsai'))).toEqual([]);
    const security = spawnSync(
      'systemd-analyze',
      ['security', '--offline=true', '--no-pager', '--threshold=20', file],
      { encoding: 'utf8' },
    );
    expect(security.status, security.stdout + security.stderr).toBe(0);
  });

  test('starts a server with the settings of its file of environment, and lets it drain', async () => {
    const [port, grpc, metrics, control] = await freePorts(4);
    const example = readFileSync(join(root, 'deploy/systemd/bonsai.env'), 'utf8');
    const variables = Object.fromEntries(
      [...example.matchAll(/^(\w+)=(.*)$/gm)].map(([, name, value]) => [name!, value!]),
    );
    const allocator = [...settings.Environment!.matchAll(/(\w+)=(\S+)/g)].map(([, name, value]) => [
      name!,
      value!,
    ]);
    expect(Object.fromEntries(allocator)).toMatchObject(MALLOC_ENVIRONMENT);
    const environment: NodeJS.ProcessEnv = {
      ...process.env,
      ...Object.fromEntries(allocator),
      ...variables,
      BONSAI_REPOSITORY: join(root, 'zoo/models'),
      BONSAI_PORT: String(port),
      BONSAI_GRPC_PORT: String(grpc),
      BONSAI_METRICS_PORT: String(metrics),
      BONSAI_CONTROL_PORT: String(control),
    };
    // As systemd does: ${NAME} is one word.
    const words = settings
      .ExecStart!.split(' ')
      .map((word) => word.replace(/^\$\{(\w+)\}$/, (_, name: string) => environment[name] ?? ''));
    expect(words.slice(0, 2)).toEqual(['/usr/bin/node', '/opt/bonsai/node_modules/bonsai/dist/cli/main.js']);
    const child = spawn(process.execPath, [main, ...words.slice(2)], {
      cwd: folder,
      env: environment,
      stdio: ['ignore', 'ignore', 'inherit'],
    });
    try {
      await answers(`http://127.0.0.1:${port}`, '/v2/health/ready');
      // The policy of the file of environment is at work: only then there are notices.
      const page = await (await request(`http://127.0.0.1:${metrics}/metrics`)).body.text();
      expect(page).toContain('bonsai_notice_active');
    } finally {
      expect(await ended(child)).toBe(0);
    }
  });

  test('names options that exist, also those that are commented out', () => {
    const help = execFileSync(process.execPath, [main, 'serve', '--help'], { encoding: 'utf8' });
    const example = readFileSync(join(root, 'deploy/systemd/bonsai.env'), 'utf8');
    const names = [...example.matchAll(/^#?BONSAI_([A-Z_]+)=/gm)].map((match) => match[1]!);
    expect(names.length).toBeGreaterThan(4);
    for (const name of names.filter((name) => name !== 'REPOSITORY'))
      expect(help).toContain(`--${name.toLowerCase().replaceAll('_', '-')} `);
  });
});
