import { execFile } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

const main = fileURLToPath(new URL('../dist/cli/main.js', import.meta.url));

const COMMANDS = [
  ...['train', 'backbones', 'inspect', 'prune', 'quantize', 'port', 'profile', 'repo', 'serve'],
  ...['orchestrate', 'fleet', 'stress', 'simulate', 'demo', 'doctor', 'completion'],
];

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-cli-'));
});
afterAll(() => rm(folder, { recursive: true }));

function bonsai(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], { cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

describe('bonsai', () => {
  it('lists its commands', async () => {
    const { code, stdout } = await bonsai('--help');
    expect(code).toBe(0);
    for (const command of COMMANDS) {
      expect(stdout).toContain(`  ${command} `);
    }
  });

  it.each(COMMANDS)('explains %s with an example and the exit codes', async (command) => {
    const { code, stdout } = await bonsai(command, '--help');
    expect(code).toBe(0);
    expect(stdout).toMatch(new RegExp(`\\$ bonsai ${command}`));
    expect(stdout).toContain('Exit codes');
  });

  it.each([
    [['serv'], /unknown command 'serv'/],
    [['train', '--data', 'mnist'], /required option '--out/],
    [['train', '--data', 'cifar', '--out', 'x.onnx'], /no data module "cifar"\. Known: "mnist"/],
    [['train', '--data', 'mnist', '--out', 'x.onnx', '--epochs', 'many'], /Expected epochs such as 10/],
    [['serve', 'models', '--port', '99999'], /integer from 0 to 65535/],
    [['serve', 'models', '--host', '0.0.0.0'], /token/],
    [
      ['orchestrate', 'models', '--server', 'http://x', '--policy', 'clever'],
      /no policy "clever"\. Known: static:largest/,
    ],
    [['orchestrate', 'models'], /Give the server of models \(--server/],
    [['orchestrate', 'absent.yaml'], /The fleet's file absent\.yaml cannot be read/],
    [['orchestrate', 'fleet.yaml', '--slo', '1s'], /--slo is for single servers/],
    [['fleet', 'status'], /The fleet's file fleet\.yaml cannot be read/],
  ])('refuses %j with exit code 2', async (args, complaint) => {
    const { code, stderr } = await bonsai(...args);
    expect(stderr).toMatch(complaint);
    expect(code).toBe(2);
  });

  it.each([
    [['port', 'absent.onnx', '--data', 'mnist', '--out', 'models'], /absent\.onnx/],
    [['serve', 'absent', '--port', '0', '--metrics-port', '0'], /Cannot read the model repository absent/],
    [['repo', 'list', 'absent'], /Cannot read the model repository absent/],
    [['train', '--data', 'mnist:absent', '--out', 'x.onnx'], /absent/],
    [
      ['stress', '--url', 'http://127.0.0.1:9', '--model', 'm', '--data', 'mnist'],
      /answers at http:\/\/127\.0\.0\.1:9/,
    ],
  ])('fails on %j with exit code 1 and says what is missing', async (args, complaint) => {
    const { code, stderr } = await bonsai(...args);
    expect(stderr).toMatch(complaint);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(code).toBe(1);
  });
});
