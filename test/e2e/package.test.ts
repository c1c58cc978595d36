import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, readFileSync } from 'node:fs';
import { cp, mkdir, mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { request } from 'undici';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';

const root = fileURLToPath(new URL('../..', import.meta.url));

/** Of the tarball: what is downloaded for each installation, the dependencies aside. */
const MAX_TARBALL_BYTES = 2 * 2 ** 20;

/** The packages that a user gets, by their places in node_modules: those of the lock file that are not for development. */
function productionPackages(): string[] {
  const { packages } = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')) as {
    packages: Record<string, { dev?: boolean; link?: boolean; devOptional?: boolean }>;
  };
  return Object.entries(packages).flatMap(([place, { dev, link, devOptional }]) =>
    place.startsWith('node_modules/') && !dev && !link && !devOptional && existsSync(join(root, place))
      ? [place]
      : [],
  );
}

describe('the package', () => {
  let folder: string;
  let project: string;
  let packed: { filename: string; size: number; files: { path: string }[] };

  beforeAll(async () => {
    folder = await mkdtemp(join(tmpdir(), 'bonsai-package-'));
    const npmPack = ['pack', '--json', '--ignore-scripts', '--pack-destination', folder];
    const output = execFileSync('npm', npmPack, {
      cwd: root,
      encoding: 'utf8',
      stdio: ['ignore', 'pipe', 'ignore'],
    });
    packed = JSON.parse(output)[0];
    // A project elsewhere. Its dependencies come from here, so that npm, which is kept off the network, finds them in place.
    project = join(folder, 'project');
    for (const place of productionPackages()) {
      await mkdir(dirname(join(project, place)), { recursive: true });
      if (!existsSync(join(project, place)))
        execFileSync('cp', ['-a', join(root, place), join(project, place)]);
    }
    await writeFile(join(project, 'package.json'), '{"private":true}');
    execFileSync(
      'npm',
      ['install', '--offline', '--ignore-scripts', '--no-audit', '--no-fund', join(folder, packed.filename)],
      { cwd: project, stdio: ['ignore', 'ignore', 'inherit'] },
    );
    await cp(join(root, 'zoo/models/mnist'), join(project, 'models/mnist'), { recursive: true });
  }, 600_000);
  afterAll(() => rm(folder, { recursive: true, force: true }));

  const npx = (...args: string[]) =>
    execFileSync('npx', ['--no-install', 'bonsai', ...args], { cwd: project, encoding: 'utf8' });

  test('is small, and holds what runs, its documentation, and nothing else', () => {
    expect(packed.size).toBeLessThan(MAX_TARBALL_BYTES);
    const paths = packed.files.map(({ path }) => path);
    for (const path of [
      'README.md',
      'LICENSE',
      'NOTICE',
      'CHANGELOG.md',
      'dist/cli/bin.js',
      'dist/dashboard/index.html',
    ])
      expect(paths).toContain(path);
    const strangers = paths.filter(
      (path) =>
        !/^(dist\/|deploy\/|docs\/.*\.md$|README\.md$|LICENSE$|NOTICE$|CHANGELOG\.md$|package\.json$)/.test(
          path,
        ) || /\.(test|fixture)\.|\.map$/.test(path),
    );
    expect(strangers).toEqual([]);
    // What an earlier build left behind would be packed, too.
    const leftovers = paths.filter(
      (path) =>
        /^dist\/(?!dashboard\/).*\.js$/.test(path) &&
        !existsSync(join(root, path.replace(/^dist/, 'src').replace(/\.js$/, '.ts'))),
    );
    expect(leftovers, 'remove dist/ and build again').toEqual([]);
  });

  test('is installed as its own files, not as a link to these', () => {
    expect(existsSync(join(project, 'node_modules/bonsai/dist/cli/main.js'))).toBe(true);
    expect(existsSync(join(project, 'node_modules/bonsai/src'))).toBe(false);
  });

  test('explains the demonstration and completes commands', () => {
    expect(npx('demo', '--help')).toContain('$ bonsai demo');
    expect(npx('completion', 'bash')).toContain('complete -F _bonsai bonsai');
  });

  test('finds nothing wrong with itself', () => {
    const ports = ['--port', '0', '--grpc-port', '0', '--metrics-port', '0', '--control-port', '0'];
    const { ok, findings } = JSON.parse(npx('doctor', 'models', '--json', ...ports));
    expect(findings.filter(({ status }: { status: string }) => status === 'fail')).toEqual([]);
    expect(ok).toBe(true);
  });

  test('serves, live page included, and ends when told to', async () => {
    const bin = join(project, 'node_modules/.bin/bonsai');
    const child = spawn(bin, ['serve', 'models', '--port', '0', '--metrics-port', '0', '--json'], {
      cwd: project,
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    try {
      const [line] = await once(createInterface(child.stdout), 'line');
      const { http, control, metrics } = JSON.parse(line);
      const { body } = await request(`${http}/v2/models/mnist/infer`, {
        method: 'POST',
        body: JSON.stringify({
          inputs: [{ name: 'image', datatype: 'FP32', shape: [1, 1, 28, 28], data: new Array(784).fill(0) }],
        }),
      });
      const answer = (await body.json()) as { outputs: { data: number[] }[] };
      expect(answer.outputs[0]!.data).toHaveLength(10);
      const page = await (await request(control)).body.text();
      const script = /src="(\.\/assets\/[^"]+\.js)"/.exec(page)![1]!;
      expect((await request(new URL(script, control))).statusCode).toBe(200);
      expect(await (await request(metrics)).body.text()).toContain('bonsai_requests_total{model="mnist"');
    } finally {
      child.kill('SIGTERM');
    }
    const [code] = await once(child, 'exit');
    expect(code).toBe(0);
  });
});
