import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { existsSync } from 'node:fs';
import { lstat, mkdtemp, readdir, readFile, rm, stat, symlink, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { elementCount, float32Tensor } from '../base/tensor.ts';
import { Session } from '../engine/session.ts';
import { GraphBuilder, modelOf } from '../graph/build.ts';
import { type Model, withGraph } from '../graph/model.ts';
import { readModelFile } from '../graph/onnx/read.ts';
import { writeModel, writeModelFile } from '../graph/onnx/write.ts';
import { countParameters } from '../ops/count.ts';
import { distanceOf } from '../transform/prune/nearest.ts';
import { Net } from '../transform/prune/net.fixture.ts';
import { inputsFor, randomNetwork } from '../transform/prune/networks.fixture.ts';
import { checkRunnable, checkShapes, compactCount, parseAlign, parseShape, readNetwork } from './network.ts';
import { NOTABLE_DEVIATION } from './prune.ts';

const main = fileURLToPath(new URL('../../dist/cli/main.js', import.meta.url));
const network = randomNetwork(['bn-relu', 'residual', 'concat', 'depthwise', 'conv'], 'gap', 6);

let folder: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'bonsai-prune-'));
  await writeModelFile(network, join(folder, 'network.onnx'));
});
afterAll(() => rm(folder, { recursive: true }));

function bonsai(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    execFile(process.execPath, [main, ...args], { cwd: folder }, (error, stdout, stderr) => {
      resolve({ code: typeof error?.code === 'number' ? error.code : 0, stdout, stderr });
    });
  });
}

describe('bonsai prune', () => {
  test('writes a smaller network that runs, and tells programs what it did in the promised form', async () => {
    const { code, stdout, stderr } = await bonsai(
      ...[
        'prune',
        'network.onnx',
        '--ratio',
        '0.5',
        '--align',
        '1',
        '--out',
        'half.onnx',
        '--verify',
        '6',
        '--json',
      ],
    );
    expect([code, stderr]).toEqual([0, expect.stringContaining('Verifying')]);
    const result = JSON.parse(stdout);
    const pruned = await readModelFile(join(folder, 'half.onnx'));
    expect(result).toEqual({
      parameters: { before: countParameters(network), after: countParameters(pruned) },
      macs: { before: expect.any(Number), after: expect.any(Number) },
      align: 1,
      seconds: expect.any(Number),
      groups: expect.any(Number),
      frozen: [{ node: 'logits', reason: expect.stringContaining('output of the graph') }],
      verify: {
        groups: 6,
        inputs: 8,
        maxRelativeError: expect.any(Number),
        isSensitive: true,
        skipped: 0,
        delivered: { inputs: 8, maxRelativeError: expect.any(Number) },
      },
    });
    expect(result.parameters.after).toBeLessThan(0.5 * result.parameters.before);
    expect(result.macs.after).toBeLessThan(result.macs.before);
    expect(result.verify.maxRelativeError).toBeLessThan(1e-4);
    expect(result.verify.delivered.maxRelativeError).toBeLessThan(1e-4);
    const session = await Session.create(writeModel(pruned));
    expect((await session.run(inputsFor(pruned, 1))).logits!.shape).toEqual([2, 5]);
    await session.release();
  });

  test('tells people what each group lost and where the file is', async () => {
    const { code, stdout } = await bonsai(
      ...[
        'prune',
        'network.onnx',
        '--scope',
        'global',
        '--criterion',
        'fpgm',
        '--align',
        '1',
        '--out',
        'o.onnx',
      ],
    );
    expect(code).toBe(0);
    expect(stdout).toMatch(/^group \(made by\) +channels +kept$/m);
    expect(stdout).toMatch(/^parameters +\S+.* → .* %\)$/m);
    expect(stdout).toMatch(/written to o\.onnx/);
  });

  test('leaves what several layers make, and layers by name, whole', async () => {
    const keptBy = async (...args: string[]) => {
      const { stdout } = await bonsai(
        ...['prune', 'network.onnx', '--align', '1', '--out', 'whole.onnx', ...args],
      );
      const rows = stdout.matchAll(/^(conv\S*)( and \d+ more)? +(\d+) +(\d+)$/gm);
      return [...rows].map(([, name, others, channels, kept]) => ({
        name,
        isShared: others !== undefined,
        isWhole: channels === kept,
      }));
    };
    const inner = await keptBy('--inner');
    expect(inner.some(({ isShared }) => isShared)).toBe(true);
    for (const { isShared, isWhole } of inner) expect(isWhole).toBe(isShared);
    const [first, ...others] = await keptBy('--skip', 'conv');
    expect(first).toMatchObject({ name: 'conv', isWhole: true });
    expect(others.every(({ isWhole }) => !isWhole)).toBe(true);
  });

  test('prunes in rounds, to the widths of one', async () => {
    const run = async (...args: string[]) => {
      const { code, stdout } = await bonsai(
        ...[
          'prune',
          'network.onnx',
          '--align',
          '1',
          '--out',
          'rounds.onnx',
          '--verify',
          '1',
          '--json',
          ...args,
        ],
      );
      expect(code).toBe(0);
      return JSON.parse(stdout);
    };
    const [once, rounds] = [
      await run(),
      await run('--schedule', 'agp', '--iterations', '3', '--criterion', 'l1'),
    ];
    expect(rounds.parameters).toEqual(once.parameters);
    expect(rounds.verify.delivered.maxRelativeError).toBeLessThan(1e-4);
  });

  test('prunes to a share of the work', async () => {
    const { code, stdout } = await bonsai(
      ...['prune', 'network.onnx', '--goal', 'flops=0.6', '--align', '1', '--out', 'goal.onnx', '--json'],
    );
    const { goal, macs } = JSON.parse(stdout);
    expect(code).toBe(0);
    expect(goal.wanted).toBe('flops=0.6');
    expect(distanceOf(macs.after / macs.before, 0.6)).toBeLessThan(0.02);
  });

  test('writes what cannot be compared, and says that nothing was shown', async () => {
    const build = new GraphBuilder('normalised');
    const weight = (...shape: number[]) =>
      build.constant(
        float32Tensor(
          shape,
          Float32Array.from({ length: elementCount(shape) }, (_, i) => Math.sin(1.7 * i)),
        ),
      );
    let x = build.op('MatMul', [build.input('x', 'float32', ['N', 3, 4]), weight(4, 8)]);
    x = build.op('LayerNormalization', [x, weight(8), weight(8)], { axis: -1 });
    build.output(build.op('MatMul', [x, weight(8, 2)]), 'float32', ['N', 3, 2]);
    await writeModelFile(modelOf(build.finish()), join(folder, 'normalised.onnx'));
    const initializers = new Map(
      [...network.graph.initializers].map(([name, tensor]) => [
        name,
        tensor.dtype === 'float32' ? { ...tensor, bytes: new Uint8Array(tensor.bytes.length) } : tensor,
      ]),
    );
    await writeModelFile(withGraph(network, { ...network.graph, initializers }), join(folder, 'zero.onnx'));
    const verified = async (file: string, ...args: string[]) => {
      const out = ['--out', `verified-${file}`, '--align', '1', '--verify', '2'];
      const { code, stdout } = await bonsai('prune', file, ...out, ...args);
      expect(code).toBe(0);
      expect(await readdir(folder)).toContain(`verified-${file}`);
      return stdout;
    };
    expect(await verified('normalised.onnx')).toMatch(
      /^verified +nothing: 0 groups can be compared, means are taken over the channels of all 1/m,
    );
    expect(await verified('zero.onnx')).toMatch(
      /^verified +nothing: no removal of channels changes the outputs/m,
    );
    expect(JSON.parse(await verified('zero.onnx', '--json')).verify).toMatchObject({
      isSensitive: false,
      skipped: 0,
      maxRelativeError: 0,
    });
  });

  test('says where alignment alone keeps groups whole', async () => {
    const lines = async (...args: string[]) =>
      (await bonsai('prune', 'network.onnx', '--out', 'aligned.onnx', ...args)).stdout;
    const wide = await lines('--align', '16');
    const rows = [...wide.matchAll(/^conv\S*( and \d+ more)? +(\d+) +\2$/gm)];
    expect(rows.length).toBeGreaterThan(0);
    expect(wide).toContain(
      `kept whole  ${rows.length} of ${rows.length} groups: the nearest multiple of 16 channels`,
    );
    expect(wide).toMatch(/^parameters .*\(100\.0 %\)$/m);
    expect(await lines('--align', '1')).not.toMatch(/kept whole/);
    // Nothing was asked of them.
    expect(await lines('--align', '16', '--ratio', '0')).not.toMatch(/kept whole/);
    expect(await lines('--align', '16', '--skip', 'conv*')).not.toMatch(/kept whole/);
  });

  test('says why another share is left than the goal, what lies across it, and how to come nearer', async () => {
    const reached = async (align: string) => {
      const { stdout } = await bonsai(
        ...['prune', 'network.onnx', '--goal', 'params=0.6', '--align', align, '--out', 'goal.onnx'],
      );
      return /^goal +params=0\.6: ([0-9.]+) is left(.*)$/m.exec(stdout)!.slice(1);
    };
    const [coarse, why] = await reached('4');
    const distance = distanceOf(Number(coarse), 0.6);
    expect(distance).toBeGreaterThan(Math.log(1 + NOTABLE_DEVIATION));
    const [, side, across] =
      /^ \(asked: 0\.6; the nearest that the search found widths for in multiples of 4 channels, (above|below) it ([0-9.]+); --align 1 may come nearer\)$/.exec(
        why!,
      )!;
    expect(side).toBe(Number(coarse) < 0.6 ? 'above' : 'below');
    expect(Number(across) > 0.6).toBe(side === 'above');
    expect(distanceOf(Number(across), 0.6)).toBeGreaterThanOrEqual(distance);
    expect(distanceOf(Number((await reached('1'))[0]), 0.6)).toBeLessThan(distance);
  });

  test('a goal leaves layers whole that --skip and --inner name', async () => {
    const kept = async (...args: string[]) => {
      const { code, stdout, stderr } = await bonsai(
        ...['prune', 'network.onnx', '--goal', 'params=0.6', '--align', '1', '--out', 'goal.onnx', ...args],
      );
      expect(stderr).not.toMatch(/bonsai:/);
      expect(code).toBe(0);
      return [...stdout.matchAll(/^(\S+?)(?: and \d+ more)? +(\d+) +(\d+)$/gm)].map(
        ([line, name, before, after]) => ({
          name: name!,
          isInner: / more /.test(line),
          isWhole: before === after,
        }),
      );
    };
    const taken = (await kept()).find(({ isWhole, isInner }) => !isWhole && !isInner)!;
    expect((await kept('--skip', taken.name)).find(({ name }) => name === taken.name)?.isWhole).toBe(true);
    const inner = (await kept('--inner')).filter(({ isInner }) => isInner);
    expect(inner.length).toBeGreaterThan(0);
    expect(inner.every(({ isWhole }) => isWhole)).toBe(true);
  });

  test.skipIf(!existsSync('/dev/null'))(
    'goes into devices and through links, and over its own input only when told to',
    async () => {
      const half = ['--align', '1', '--out'];
      expect(await bonsai('prune', 'network.onnx', ...half, '/dev/null')).toMatchObject({ code: 0 });
      expect((await stat('/dev/null')).isCharacterDevice()).toBe(true);
      await symlink('linked.onnx', join(folder, 'link.onnx'));
      expect(await bonsai('prune', 'network.onnx', ...half, 'link.onnx')).toMatchObject({ code: 0 });
      const linked = countParameters(await readModelFile(join(folder, 'linked.onnx')));
      expect(linked).toBeLessThan(countParameters(network));
      expect((await lstat(join(folder, 'link.onnx'))).isSymbolicLink()).toBe(true);
      await writeModelFile(network, join(folder, 'own.onnx'));
      expect(await bonsai('prune', 'own.onnx', ...half, 'own.onnx', '--force')).toMatchObject({ code: 0 });
      expect(countParameters(await readModelFile(join(folder, 'own.onnx')))).toBe(linked);
    },
  );

  test.skipIf(!existsSync('/dev/stdout'))(
    'into a pipe goes the network alone, the summary beside it',
    async () => {
      const command = `"${process.execPath}" "${main}" prune network.onnx --align 1 --out /dev/stdout | cat > piped.onnx`;
      const { stdout, stderr } = await new Promise<{ stdout: string; stderr: string }>((done) => {
        execFile('sh', ['-c', command], { cwd: folder }, (_error, stdout, stderr) =>
          done({ stdout, stderr }),
        );
      });
      expect(stdout).toBe('');
      expect(stderr).toMatch(/parameters .* written to \/dev\/stdout/s);
      await bonsai('prune', 'network.onnx', '--align', '1', '--out', 'filed.onnx');
      expect(await readFile(join(folder, 'piped.onnx'))).toEqual(await readFile(join(folder, 'filed.onnx')));
    },
  );

  test('of a network whose branches multiply, the work is unknown, and why is told', async () => {
    const build = new GraphBuilder('branches', { ...network.graph, outputs: [] });
    const branch = (rows: number[]) => {
      const inner = new GraphBuilder('branch');
      inner.output(inner.op('MatMul', ['logits', inner.constant(float32Tensor([5, 1], rows))]), 'float32');
      return { kind: 'graph', value: inner.finish() } as const;
    };
    const branches = { then_branch: branch([1, 2, 3, 4, 5]), else_branch: branch([5, 4, 3, 2, 1]) };
    const y = build.op('If', [build.input('condition', 'bool', [])], branches);
    build.output(y, 'float32', ['N', 1]);
    await writeModelFile(withGraph(network, build.finish()), join(folder, 'branches.onnx'));
    const { code, stdout } = await bonsai('prune', 'branches.onnx', '--out', 'branches-half.onnx');
    expect(stdout).toMatch(/MACs {8}unknown: If .* cannot be counted: it multiplies inside a subgraph/);
    expect(stdout).not.toContain('--shape');
    expect(code).toBe(0);
    const inspected = await bonsai('inspect', 'branches.onnx');
    expect(inspected.stdout).toMatch(/multiplies inside a subgraph/);
    expect(inspected.stdout).not.toContain('--shape');
  });

  test.skipIf(!existsSync('/dev/full'))('a full device is told as such', async () => {
    const { code, stderr } = await bonsai('prune', 'network.onnx', '--out', '/dev/full');
    expect(stderr).toMatch(/\[unwritable_path\].*\/dev\/full: ENOSPC: no space left on device\./);
    expect(stderr).not.toMatch(/^\s+at /m);
    expect(code).toBe(1);
  });

  test.each([
    [['--ratio', '1'], 2, /below 1 such as 0\.5, got "1".*cannot go/],
    [['--criterion', 'best'], 2, /Allowed choices are l1, l2, fpgm/],
    [['--criterion', 'taylor'], 2, /taylor has to see data.*--data mnist/],
    [['--compensate'], 2, /--compensate has to see data.*--data mnist/],
    [['--skip', 'nothing*'], 2, /No layer .* is called "nothing\*"; there are conv/],
    [['--goal', 'flops=0.5', '--scope', 'global'], 2, /cannot be used with option/],
    [['--goal', 'flops=0.5', '--skip', 'nosuch'], 2, /No layer .*"nosuch"/],
    [['--goal', 'flops=0.5', '--max-ratio', '1'], 2, /a share above 0 and below 1 such as 0\.9, got "1"/],
    [['--max-ratio', '0.5'], 2, /--max-ratio does something only with --scope global or --goal/],
    [['--iterations', '3'], 2, /--iterations does something only with --schedule linear or agp/],
    [['--normalize-input'], 2, /--normalize-input does something only with --data/],
    [['--goal', 'speed=2'], 2, /flops=0\.5, params=0\.3/],
    [['--goal', 'flops=0.5', '--ratio', '0.5'], 2, /cannot be used with option/],
    [['--shape', 'image=1,3,8,8'], 2, /do not fit/],
    [['--shape', 'picture=1,2,8,8'], 2, /no input "picture"; its inputs are "image"/],
    [['--shape', 'image=1,2,8'], 2, /"image" is \[N, 2, 8, 8\].* \[1, 2, 8\]\. Expected 4 sizes/],
    [['--shape', 'image=1,2,8,8', '--shape', 'image=2,2,8,8'], 2, /"image" are given twice/],
    [['--shape', 'image=100000000,2,8,8', '--verify'], 2, /"image" takes 51\.2 GB at \[100000000, 2, 8, 8\]/],
    [['--shape', 'image=1,2,eight,8'], 2, /Expected an input and its sizes such as image=1,3,224,224, got/],
    [
      ['--goal', 'params=0.001', '--align', '1'],
      2,
      /lower `align` \(--align\) or raise `maxRatio` \(--max-ratio\)/,
    ],
    [['--scope', 'global', '--ratio', '0.95'], 2, /Lower the ratio \(--ratio\) or raise .*\(--max-ratio\)/],
    [['--out', 'network.onnx'], 2, /--out is network\.onnx, which is the file that is read.*--force/],
    [
      ['--goal', 'throughput=9/s', '--target', 'board'],
      2,
      /"board" cannot be measured.*bonsai profile --target/,
    ],
    [['--schedule', 'cubic'], 2, /one-shot, linear, agp/],
    [['--schedule', 'agp', '--goal', 'flops=0.5'], 2, /cannot be used with option/],
    [['--out', ''], 2, /--out is empty/],
    [['--out', 'absent/x.onnx'], 1, /there is no folder absent.*mkdir -p absent/],
  ])('refuses %j with exit code %i and writes nothing', async (args, expected, complaint) => {
    const { code, stderr } = await bonsai('prune', 'network.onnx', '--out', 'refused.onnx', ...args);
    expect(stderr).toMatch(complaint);
    expect(code).toBe(expected);
    expect(await readdir(folder)).not.toContain('refused.onnx');
  });

  test('files that are no network it can read end with code 1 and the reason', async () => {
    await writeFile(join(folder, 'text.onnx'), 'this is no network');
    const bytes = await readFile(join(folder, 'network.onnx'));
    await writeFile(join(folder, 'torn.onnx'), bytes.subarray(0, bytes.length / 2));
    await writeModelFile({ ...network, opsets: [{ domain: '', version: 99 }] }, join(folder, 'newer.onnx'));
    await writeModelFile(cyclic(network), join(folder, 'cyclic.onnx'));
    for (const [file, code, complaint] of [
      ['absent.onnx', 'missing_file', /absent\.onnx/],
      ['text.onnx', 'corrupt_model', /^\S*text\.onnx/],
      ['torn.onnx', 'corrupt_model', /^\S*torn\.onnx/],
      ['newer.onnx', 'unsupported', /newer\.onnx: operator set 99 is not supported/],
      ['cyclic.onnx', 'invalid_graph', /depends on its own output/],
    ] as const) {
      await expect(readNetwork(join(folder, file))).rejects.toMatchObject({
        code,
        message: expect.stringMatching(complaint),
      });
    }
    for (const command of [
      ['inspect', 'torn.onnx'],
      ['prune', 'cyclic.onnx', '--out', 'refused.onnx'],
    ]) {
      const { code, stderr, stdout } = await bonsai(...command);
      expect(stderr).toMatch(/^bonsai: \[(corrupt_model|invalid_graph)\]/);
      expect(stderr).not.toMatch(/^\s+at /m);
      expect([code, stdout]).toEqual([1, '']);
    }
    expect(await readdir(folder)).not.toContain('refused.onnx');
  });

  test('external data that is not there ends with code 1 and names the file', async () => {
    await writeFile(join(folder, 'external.onnx'), withExternalData('weights.bin'));
    const { code, stderr } = await bonsai('prune', 'external.onnx', '--out', 'refused.onnx');
    expect(stderr).toMatch(/\[missing_file\].*weights\.bin/);
    expect(code).toBe(1);
  });

  test('external data is not replaced by what is pruned', async () => {
    await writeFile(join(folder, 'external.onnx'), withExternalData('data.bin'));
    await writeFile(join(folder, 'data.bin'), new Uint8Array(8));
    const { code, stderr } = await bonsai('prune', 'external.onnx', '--out', 'data.bin');
    expect(stderr).toMatch(/--out is data\.bin, which is the file that is read .*--force/);
    expect(code).toBe(2);
    expect((await readFile(join(folder, 'data.bin'))).byteLength).toBe(8);
  });
});

describe('bonsai inspect', () => {
  test('shows groups as a tree, and the same to programs', async () => {
    const { code, stdout } = await bonsai('inspect', 'network.onnx');
    expect(code).toBe(0);
    expect(stdout).toMatch(/^ {2}input +image float32 \[N, 2, 8, 8\]$/m);
    expect(stdout).toMatch(/├─ made by +conv, conv_2/);
    expect(stdout).toMatch(/└─ together +add: combined element by element/);
    expect(stdout).toMatch(/^ {2}logits, because logits: is an output of the graph$/m);
    const report = JSON.parse((await bonsai('inspect', 'network.onnx', '--json')).stdout);
    expect(report).toMatchObject({
      parameters: countParameters(network),
      inputs: [{ name: 'image', dtype: 'float32', shape: ['N', 2, 8, 8] }],
      block: expect.any(Number),
      prunable: { macsRatio: expect.any(Number) },
    });
    expect(report.nodes[0].macs).toBeGreaterThanOrEqual(report.nodes[1].macs);
  });
});

test.each(['prune', 'inspect'])('%s ends quietly when nobody reads its output', async (command) => {
  const out = command === 'prune' ? ['--out', 'unread.onnx', '--align', '1'] : ['--json'];
  const child = spawn(process.execPath, [main, command, 'network.onnx', ...out], {
    cwd: folder,
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  child.stdout.destroy();
  let stderr = '';
  child.stderr.on('data', (chunk) => {
    stderr += chunk;
  });
  const [code] = await once(child, 'close');
  expect([code, stderr]).toEqual([0, '']);
  if (command === 'prune') expect(await readdir(folder)).toContain('unread.onnx');
});

describe('options', () => {
  test('sizes of inputs are read by name, several one after the other', () => {
    const given = new Set<string>();
    const first = parseShape('a=1,3', {}, given);
    expect(() => parseShape('a=1,4', first, given)).toThrow(/"a" are given twice: 1,3 and 1,4/);
    // A flag overrides what the configuration says.
    expect(parseShape('a=1,4', { a: [1, 3] }, new Set())).toEqual({ a: [1, 4] });
    expect(parseShape('a=1,3', parseShape('b:0=2'))).toEqual({ 'b:0': [2], a: [1, 3] });
    for (const text of ['1,3,224', 'image=', 'image=1,,3', 'image=1,-1', 'image=a'])
      expect(() => parseShape(text)).toThrow(/image=1,3,224,224/);
    expect(() => checkShapes(network, { picture: [1] })).toThrow(
      /no input "picture"; its inputs are "image"/,
    );
  });
  test('sizes at which nothing can be run are refused with what they take, before anything is run', () => {
    const net = new Net();
    const image = net.build.input('image', 'float32', ['N', 3, 'H', 'W']);
    const open = net.close(net.conv(image, 3, 16), 16);
    const at = (size: number, memory?: number) => () =>
      checkRunnable(open, { image: [1, 3, size, size] }, memory);
    expect(at(100_000)).toThrow(/input "image" takes 120 GB at \[1, 3, 100000, 100000\]/);
    expect(at(100_000, 1e15)).toThrow(/an input can have 4\.29 GB/);
    // Three channels of 1000 × 1000 take 12 MB, sixteen 64 MB.
    expect(at(1000, 5e7)).toThrow(/value ".*" takes 0\.0640 GB at \[1, 16, 1000, 1000\].*has 0\.0500 GB/);
    expect(at(1000, 7e7)).not.toThrow();
  });

  test('alignments are auto or positive integers, counts have three digits', () => {
    expect(['auto', '8'].map(parseAlign)).toEqual(['auto', 8]);
    for (const text of ['0', '1.5', '', 'block'])
      expect(() => parseAlign(text)).toThrow(/auto or an integer/);
    expect([999, 1234, 25_600_000, 1.814e9].map(compactCount)).toEqual(['999', '1.23 k', '25.6 M', '1.81 G']);
  });
});

/** The first node reads what the last one makes. */
function cyclic(model: Model): Model {
  const [first, ...rest] = model.graph.nodes;
  const inputs = first!.inputs.with(0, rest.at(-2)!.outputs[0]!);
  return withGraph(model, { ...model.graph, nodes: [{ ...first!, inputs }, ...rest] });
}

/** An ONNX file, written by hand, with one initialiser of two floats that lie in another file. */
function withExternalData(location: string): Uint8Array {
  const text = (value: string) => [...new TextEncoder().encode(value)];
  const field = (number: number, content: readonly number[]) => [
    (number << 3) | 2,
    content.length,
    ...content,
  ];
  const integer = (number: number, value: number) => [number << 3, value];
  const entry = [...field(1, text('location')), ...field(2, text(location))];
  // TensorProto: dims, data_type float, name, external_data, data_location EXTERNAL.
  const tensor = [
    ...integer(1, 2),
    ...integer(2, 1),
    ...field(8, text('w')),
    ...field(13, entry),
    ...integer(14, 1),
  ];
  const node = [...field(1, text('w')), ...field(2, text('y')), ...field(4, text('Relu'))];
  const graph = [
    ...field(1, node),
    ...field(2, text('g')),
    ...field(5, tensor),
    ...field(12, field(1, text('y'))),
  ];
  return Uint8Array.from([...integer(1, 8), ...field(7, graph), ...field(8, integer(2, 17))]);
}
